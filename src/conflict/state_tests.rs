//! Tests of [`super::tombstones`], [`super::overrides`] and [`super::gate`], inside a server.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use meld_core::conflict::ConflictType;
    use meld_core::converge::Grave;
    use meld_core::ids::{NodeId, Xid};
    use meld_core::time::{Stamp, Timestamp};
    use pgrx::prelude::*;

    use crate::conflict::Writers;
    use crate::conflict::overrides::Overrides;
    use crate::conflict::tombstones::{NewTombstone, Tombstones};
    use crate::pg::Oid;
    use crate::pg::key_bytes::RowKey;
    use crate::pg::keyed;

    const TABLE: u32 = 4_000_000_001;
    const OWN: Stamp = Stamp { commit_ts: Timestamp(1_000), node: NodeId(1) };

    fn table() -> Oid {
        Oid::from(TABLE)
    }

    fn key(bytes: &[u8]) -> RowKey {
        RowKey(bytes.to_vec())
    }

    fn stamp(commit_ts: i64, node: u16) -> Stamp {
        Stamp { commit_ts: Timestamp(commit_ts), node: NodeId(node) }
    }

    fn grave(stamp: Stamp) -> Grave {
        Grave { stamp, removed: None }
    }

    fn writers() -> Writers {
        Spi::run("SELECT meld.node_create('n1', 'dbname=app', node_id => 1)").expect("the node is made");
        Writers::read_past_rights().expect("this is a node")
    }

    #[pg_test]
    fn of_several_tombstones_of_a_key_the_latest_counts() {
        let mut writers = writers();
        let mut tombstones = Tombstones::default();
        assert_eq!(tombstones.may_exist(table()), Ok(false));
        let (a, b) = (key(b"a"), key(b"b"));
        tombstones.put(table(), &a, &NewTombstone::plain(grave(stamp(2_000, 2)), false)).expect("put");
        assert_eq!(tombstones.may_exist(table()), Ok(true), "asked anew once one is written");
        tombstones.put_keys(table(), &[&a.0, &b.0]).expect("put");
        keyed::seen();
        let kept = tombstones.find(table(), &a, &mut writers, OWN).expect("found").expect("one");
        assert_eq!(kept.tombstone.grave, Some(grave(stamp(2_000, 2))));
        let kept = tombstones.find(table(), &b, &mut writers, OWN).expect("found").expect("one");
        assert_eq!((kept.tombstone.grave, kept.tombstone.since), (Some(grave(OWN)), Some(OWN)));
        // a removal beats a delete of the same stamp
        let removed = Grave { stamp: OWN, removed: Some(ConflictType::MultipleUniqueConflicts) };
        tombstones.put(table(), &b, &NewTombstone::plain(removed, false)).expect("put");
        keyed::seen();
        let kept = tombstones.find(table(), &b, &mut writers, OWN).expect("found").expect("one");
        assert_eq!(kept.tombstone.grave, Some(removed));
        tombstones.forget(table(), &b).expect("forgotten");
        keyed::seen();
        assert_eq!(tombstones.find(table(), &b, &mut writers, OWN), Ok(None));
        assert!(tombstones.find(table(), &a, &mut writers, OWN).expect("found").is_some());
        assert_eq!(tombstones.find(Oid::from(TABLE + 1), &a, &mut writers, OWN), Ok(None));
        tombstones.close();
    }

    #[pg_test]
    fn a_large_transaction_has_its_keys_in_bundles() {
        let mut writers = writers();
        let mut tombstones = Tombstones::default();
        let keys: Vec<[u8; 4]> = (0..5000_u32).map(|number| (number * 3).to_be_bytes()).collect();
        let sorted: Vec<&[u8]> = std::iter::once(&[][..]).chain(keys.iter().map(<[u8; 4]>::as_slice)).collect();
        assert_eq!(tombstones.may_exist(table()), Ok(false));
        tombstones.put_keys(table(), &sorted).expect("put");
        keyed::seen();
        let count = |of: &str| Spi::get_one::<i64>(&format!("SELECT count(*) FROM meld.{of}")).expect("a query");
        assert!(count("tombstone") < Some(10), "the floor, and a few");
        assert!(count("tombstone_bundle") < Some(100));
        assert_eq!(tombstones.may_exist(table()), Ok(true));
        assert_eq!(tombstones.floor(table(), &mut writers, OWN), Ok(Some(OWN)));
        for number in 0..15_010_u32 {
            let kept = tombstones.find(table(), &key(&number.to_be_bytes()), &mut writers, OWN).expect("found");
            let is_dead = number % 3 == 0 && number < 15_000;
            assert_eq!(kept.map(|kept| kept.tombstone.grave), is_dead.then_some(Some(grave(OWN))), "{number}");
        }
        // another transaction's tombstone of the key, in its own row, is larger
        let (bundled, later) = (key(&keys[7]), grave(stamp(1_001, 2)));
        tombstones.put(table(), &bundled, &NewTombstone::plain(later, false)).expect("put");
        keyed::seen();
        let kept = tombstones.find(table(), &bundled, &mut writers, OWN).expect("found");
        assert_eq!(kept.and_then(|kept| kept.tombstone.grave), Some(later));
        // of an older transaction, they are covered by a truncate
        let before = stamp(999, 2);
        Spi::run(
            "UPDATE meld.tombstone_bundle SET stamp_ts = timestamptz '2000-01-01 00:00+00' + interval '999 us', stamp_node = 2
             WHERE key_count % 2 = 0",
        )
        .expect("an update");
        let find = |tombstones: &Tombstones, writers: &mut Writers, number: u32| {
            let kept = tombstones.find(table(), &key(&number.to_be_bytes()), writers, OWN).expect("found");
            kept.and_then(|kept| kept.tombstone.grave)
        };
        let graves: Vec<_> = (0..15_000).map(|number| find(&tombstones, &mut writers, number)).collect();
        tombstones.raise_floor(table(), OWN, &mut writers).expect("raised");
        keyed::seen();
        for (number, of) in (0..).zip(graves) {
            assert_eq!(find(&tombstones, &mut writers, number), of.filter(|of| of.stamp != before), "{number}");
        }
        let left = "SELECT count(*), count(*) FILTER (WHERE stamp_ts IS NOT NULL) FROM meld.tombstone_bundle";
        assert!(matches!(Spi::get_two::<i64, i64>(left), Ok((Some(1..), Some(0)))));
        tombstones.close();
    }

    #[pg_test]
    fn a_floor_takes_what_it_covers() {
        let mut writers = writers();
        let mut tombstones = Tombstones::default();
        let [older, newer, removed] = [key(b"older"), key(b"newer"), key(b"removed")];
        assert_eq!(tombstones.floor(table(), &mut writers, OWN), Ok(None));
        let put = |tombstones: &mut Tombstones, key, grave| {
            tombstones.put(table(), key, &NewTombstone::plain(grave, false)).expect("put");
        };
        put(&mut tombstones, &older, grave(stamp(999, 2)));
        put(&mut tombstones, &newer, grave(stamp(1_001, 2)));
        put(&mut tombstones, &removed, Grave { stamp: OWN, removed: Some(ConflictType::MultipleUniqueConflicts) });
        keyed::seen();
        tombstones.raise_floor(table(), OWN, &mut writers).expect("raised");
        assert_eq!(tombstones.floor(table(), &mut writers, OWN), Ok(Some(OWN)));
        assert_eq!(tombstones.find(table(), &older, &mut writers, OWN), Ok(None));
        for key in [&newer, &removed] {
            assert!(tombstones.find(table(), key, &mut writers, OWN).expect("found").is_some(), "{key:?}");
        }
        tombstones.close();
    }

    #[pg_test]
    fn an_explicit_stamp_holds_for_the_version_of_its_own_transaction() {
        let mut overrides = Overrides::default();
        let a = key(b"a");
        assert_eq!(overrides.may_exist(table()), Ok(false));
        overrides.set(table(), &a, stamp(5, 3)).expect("set");
        assert_eq!(overrides.may_exist(table()), Ok(true));
        let written = Spi::get_one::<i64>("SELECT xmin::text::bigint FROM meld.row_stamp_override").expect("a query");
        let xid = Xid(u32::try_from(written.expect("one row")).expect("an id"));
        assert_eq!(overrides.find(table(), &a, xid), Ok(Some(stamp(5, 3))));
        assert_eq!(overrides.find(table(), &a, Xid(xid.0 + 1)), Ok(None), "somebody wrote the row later");
        assert_eq!(overrides.find(table(), &key(b"b"), xid), Ok(None));
        overrides.set(table(), &a, stamp(6, 2)).expect("set");
        assert_eq!(overrides.find(table(), &a, xid), Ok(Some(stamp(6, 2))), "one for each key");
        overrides.clear(table(), &a).expect("cleared");
        assert_eq!(overrides.find(table(), &a, xid), Ok(None));
        overrides.close();
    }
}
