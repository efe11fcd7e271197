//! Which relations and types changed, for caches over the catalog.
//!
//! The server calls our callbacks from wherever it takes in invalidations: in the middle of catalog look-ups, also
//! those that build a cache's entry. They can't be unregistered and outlive every cache. So they touch no cache: they
//! only write into the inbox of each one that still lives, and its owner empties that between two uses of an entry.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::{Rc, Weak};

use meld_core::ids::RelId;
use pgrx::pg_sys;

/// More changed relations than this are taken for all relations.
const NAMED_RELATIONS_LIMIT: usize = 1024;

/// What changed since the last look.
#[derive(Default)]
pub struct Changed {
    pub relations: HashSet<RelId>,
    pub all_relations: bool,
    /// A type or a function, so that every look-up of an output function may be wrong. Implies `all_relations`.
    pub types: bool,
}

/// An inbox. What it holds when it is made is nothing: a cache starts empty as well.
pub struct Invalidations {
    inbox: Rc<RefCell<Option<Changed>>>,
}

thread_local! {
    /// How often something changed, and one more; 0: nobody has asked yet.
    static GENERATION: Cell<u64> = const { Cell::new(0) };
    static INBOXES: RefCell<Vec<Inbox>> = const { RefCell::new(Vec::new()) };
}

type Inbox = Weak<RefCell<Option<Changed>>>;

impl Invalidations {
    /// Begins to listen.
    pub fn listen() -> Invalidations {
        let inbox = Rc::new(RefCell::new(None));
        INBOXES.with_borrow_mut(|inboxes| {
            inboxes.retain(|other| other.strong_count() > 0);
            inboxes.push(Rc::downgrade(&inbox));
        });
        // from here on the server tells
        generation();
        Invalidations { inbox }
    }

    /// What came in since the last call; usually nothing.
    pub fn take(&self) -> Option<Changed> {
        // a look first: this is asked once per change
        if self.inbox.borrow().is_none() { None } else { self.inbox.borrow_mut().take() }
    }
}

/// Rises with everything that changes: what was known of tables before may be wrong after.
pub fn generation() -> u64 {
    if GENERATION.get() == 0 {
        GENERATION.set(1);
        register();
    }
    GENERATION.get()
}

/// What a process knows of tables, until one changes.
pub struct TableCache<T> {
    tables: HashMap<RelId, T>,
    /// The table that was asked for last: a statement asks for the same one at each of its rows.
    last: Option<(RelId, T)>,
    invalidations: Option<Invalidations>,
}

impl<T> Default for TableCache<T> {
    fn default() -> TableCache<T> {
        TableCache { tables: HashMap::new(), last: None, invalidations: None }
    }
}

impl<T: Clone> TableCache<T> {
    /// What is known of the table. What has changed since the last look is forgotten first.
    pub fn get(&mut self, table: RelId) -> Option<T> {
        if let Some(changed) = self.invalidations.get_or_insert_with(Invalidations::listen).take() {
            if changed.all_relations {
                self.tables.clear();
            }
            changed.relations.iter().for_each(|relation| drop(self.tables.remove(relation)));
            self.last = None;
        }
        match &self.last {
            Some((last, known)) if *last == table => Some(known.clone()),
            _ => {
                let known = self.tables.get(&table).cloned()?;
                self.last = Some((table, known.clone()));
                Some(known)
            }
        }
    }

    /// To be kept until the table changes: what comes in while it is looked up is seen by the next look.
    pub fn insert(&mut self, table: RelId, known: T) {
        self.last = None;
        self.tables.insert(table, known);
    }
}

fn register() {
    let nothing = pg_sys::Datum::from(0_usize);
    // SAFETY: main thread; the callbacks are functions of this library, which is never unloaded
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), nothing);
        for cache in [
            pg_sys::SysCacheIdentifier::NAMESPACEOID,
            pg_sys::SysCacheIdentifier::TYPEOID,
            pg_sys::SysCacheIdentifier::PROCOID,
        ] {
            pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(object_changed), nothing);
        }
    }
}

/// Writes into every inbox whose owner is there. Calls nothing of the server's, so it can't come here again. A process
/// that is ending may have lost its inboxes already.
fn note(write: impl Fn(&mut Changed)) {
    GENERATION.set(GENERATION.get().wrapping_add(1));
    let _ = INBOXES.try_with(|inboxes| {
        for inbox in inboxes.borrow().iter().filter_map(Weak::upgrade) {
            write(inbox.borrow_mut().get_or_insert_default());
        }
    });
}

unsafe extern "C-unwind" fn relation_changed(_: pg_sys::Datum, relation: pg_sys::Oid) {
    note(|changed| {
        if relation == pg_sys::InvalidOid || changed.relations.len() >= NAMED_RELATIONS_LIMIT {
            changed.all_relations = true;
            changed.relations.clear();
        } else if !changed.all_relations {
            changed.relations.insert(RelId(relation.to_u32()));
        }
    });
}

unsafe extern "C-unwind" fn object_changed(_: pg_sys::Datum, cache: i32, _hash: pg_sys::uint32) {
    let is_schema = cache == pg_sys::SysCacheIdentifier::NAMESPACEOID as i32;
    note(|changed| {
        changed.all_relations = true;
        changed.relations.clear();
        changed.types |= !is_schema;
    });
}
