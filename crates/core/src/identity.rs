//! Whether two nodes can be told apart.
//!
//! Stamps name a node by its number, snowflake ids by their own, slots and the catalog by its name, and one database
//! is one node. Two nodes that share any of these would take each other's changes for their own, so both ends of a
//! link ask this at every connect: the provider with the start options, the subscriber with `Startup`.

use std::fmt;

use crate::ids::NodeIdentity;

/// What of a node must be its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    Id,
    Name,
    SnowflakeNode,
    /// The system identifier together with the database.
    Database,
}

impl Mark {
    const ALL: [Mark; 4] = [Mark::Id, Mark::Name, Mark::SnowflakeNode, Mark::Database];

    fn is_shared(self, a: &NodeIdentity, b: &NodeIdentity) -> bool {
        match self {
            Mark::Id => a.id == b.id,
            Mark::Name => a.name == b.name,
            Mark::SnowflakeNode => a.snowflake_node == b.snowflake_node,
            Mark::Database => (a.system_identifier, &a.database) == (b.system_identifier, &b.database),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mark::Id => "node id",
            Mark::Name => "name",
            Mark::SnowflakeNode => "snowflake node number",
            Mark::Database => "system identifier and database",
        })
    }
}

/// Two nodes that must not be linked: they have the same `shared` marks.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("nodes \"{}\" and \"{}\" have the same {}", .ours.name, .theirs.name, listed(.shared))]
pub struct IdentityClash {
    pub ours: NodeIdentity,
    pub theirs: NodeIdentity,
    /// One or more, in the order of [`Mark`].
    pub shared: Vec<Mark>,
}

impl IdentityClash {
    /// Both nodes in full: the DETAIL of the report.
    pub fn detail(&self) -> String {
        format!("This node is {}; its peer is {}.", described(&self.ours), described(&self.theirs))
    }
}

/// Refuses a link between two nodes that share a mark.
pub fn check_distinct(ours: &NodeIdentity, theirs: &NodeIdentity) -> Result<(), Box<IdentityClash>> {
    let shared: Vec<Mark> = Mark::ALL.into_iter().filter(|mark| mark.is_shared(ours, theirs)).collect();
    if shared.is_empty() {
        return Ok(());
    }
    Err(Box::new(IdentityClash { ours: ours.clone(), theirs: theirs.clone(), shared }))
}

fn described(node: &NodeIdentity) -> String {
    format!(
        "\"{}\" with node id {}, snowflake node number {}, database \"{}\" of system {}",
        node.name, node.id, node.snowflake_node, node.database, node.system_identifier
    )
}

/// "a", "a and b", "a, b and c".
fn listed(marks: &[Mark]) -> String {
    let names: Vec<String> = marks.iter().map(Mark::to_string).collect();
    match names.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    fn node(id: u16, name: &str, snowflake_node: u16, system_identifier: u64, database: &str) -> NodeIdentity {
        NodeIdentity { id: NodeId(id), name: name.into(), system_identifier, database: database.into(), snowflake_node }
    }

    #[test]
    fn nodes_that_share_nothing_may_be_linked() {
        let n1 = node(1, "n1", 1, 77, "app");
        assert_eq!(check_distinct(&n1, &node(2, "n2", 2, 78, "app")), Ok(()), "same database name, other server");
        assert_eq!(check_distinct(&n1, &node(2, "n2", 2, 77, "shop")), Ok(()), "other database, same server");
        assert_eq!(check_distinct(&n1, &node(2, "n2", 3, 78, "n1")), Ok(()));
    }

    #[test]
    fn each_shared_mark_is_refused_by_name() {
        let n1 = node(1, "n1", 1, 77, "app");
        let cases = [
            (node(1, "n2", 2, 78, "app"), Mark::Id, "nodes \"n1\" and \"n2\" have the same node id"),
            (node(2, "n1", 2, 78, "app"), Mark::Name, "nodes \"n1\" and \"n1\" have the same name"),
            (
                node(2, "n2", 1, 78, "app"),
                Mark::SnowflakeNode,
                "nodes \"n1\" and \"n2\" have the same snowflake node number",
            ),
            (
                node(2, "n2", 2, 77, "app"),
                Mark::Database,
                "nodes \"n1\" and \"n2\" have the same system identifier and database",
            ),
        ];
        for (other, mark, text) in cases {
            let clash = check_distinct(&n1, &other).unwrap_err();
            assert_eq!((clash.shared.as_slice(), clash.to_string().as_str()), ([mark].as_slice(), text));
            assert_eq!(check_distinct(&other, &n1).unwrap_err().shared, [mark], "seen from the other side");
        }
    }

    #[test]
    fn a_copy_shares_everything_and_both_are_described() {
        let n1 = node(1, "n1", 1, 77, "app");
        let clash = check_distinct(&n1, &n1.clone()).unwrap_err();
        assert_eq!(
            clash.to_string(),
            "nodes \"n1\" and \"n1\" have the same node id, name, snowflake node number and system identifier and database"
        );
        assert!(clash.detail().starts_with("This node is \"n1\" with node id 1, snowflake node number 1, database"));
    }
}
