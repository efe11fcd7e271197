//! All programs of a few writes over a schedule: who writes what between which deliveries.

use crate::model::{Known, Stamp, World, Write};

/// What happens to all programs of a run at once. Each program makes at most one write at each `Write`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Write,
    /// All that the first has written arrives at the second.
    Deliver(usize, usize),
}

/// How the key of a program begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    Absent,
    /// Written by node 1 and known to all.
    Live,
    /// Written and deleted by node 1, and known to all.
    Dead,
    /// On one node since before the table was replicated.
    OnlyAt(usize),
}

#[derive(Clone, Debug)]
pub struct Program {
    pub base: Base,
    /// For each `Write` of the schedule.
    pub writes: Vec<Option<(usize, Write)>>,
    /// How it must end.
    pub world: World,
    /// How it may end on a node that has dropped the tombstone of the base, which all have confirmed.
    pub forgotten: World,
}

pub const BASE: Stamp = Stamp { at: 0, node: 1 };
/// A delete of the base is a write of its own.
pub const BASE_DELETE: Stamp = Stamp { at: 1, node: 1 };
const FIRST: usize = 2;

/// Stamp of the write of a slot.
pub fn stamp_of(slot: usize, node: usize) -> Stamp {
    Stamp { at: FIRST + slot, node }
}

fn begin(nodes: usize, base: Base) -> World {
    let mut world = World::new(nodes);
    let all: Vec<usize> = world.places().collect();
    match base {
        Base::Absent => {}
        Base::Live => world.found(&all, 0, Known::Live(BASE)),
        Base::Dead => world.found(&all, 0, Known::Dead(BASE_DELETE)),
        Base::OnlyAt(place) => world.found(&[place], 0, Known::Live(Stamp { at: 0, node: place })),
    }
    world
}

/// All programs with INSERT, UPDATE and DELETE at every slot, and those with all kinds of writes at the first two.
pub fn all(nodes: usize, schedule: &[Step], bases: &[Base]) -> Vec<Program> {
    let mut programs = Vec::new();
    for &base in bases {
        let forgotten = begin(nodes, if base == Base::Dead { Base::Absent } else { base });
        let program = Program { base, writes: Vec::new(), world: begin(nodes, base), forgotten };
        extend(program.clone(), schedule, &|_, write| is_plain(write), &mut programs);
        extend(program, schedule, &|slot, _| slot < 2, &mut programs);
    }
    // what one node does alone is no conflict
    programs.retain(|program| {
        let writers: Vec<usize> = program.writes.iter().flatten().map(|(place, _)| *place).collect();
        writers.iter().any(|place| *place != writers[0]) || matches!(program.base, Base::OnlyAt(_))
    });
    programs
}

fn is_plain(write: Write) -> bool {
    matches!(write, Write::Insert(_) | Write::Update(_) | Write::Delete(_))
}

fn extend(program: Program, rest: &[Step], allowed: &impl Fn(usize, Write) -> bool, programs: &mut Vec<Program>) {
    let Some((step, rest)) = rest.split_first() else {
        programs.push(program);
        return;
    };
    let mut program = program;
    match *step {
        Step::Deliver(from, to) => {
            program.world.deliver(from, to);
            program.forgotten.deliver(from, to);
            extend(program, rest, allowed, programs);
        }
        Step::Write => {
            let slot = program.writes.len();
            let mut is_last = true;
            for place in program.world.places() {
                for write in program.world.possible(place) {
                    if !allowed(slot, write) {
                        continue;
                    }
                    is_last = false;
                    let mut next = program.clone();
                    next.world.write(stamp_of(slot, place), write);
                    next.forgotten.write(stamp_of(slot, place), write);
                    next.writes.push(Some((place, write)));
                    extend(next, rest, allowed, programs);
                }
            }
            if is_last {
                program.writes.push(None);
                extend(program, rest, allowed, programs);
            }
        }
    }
}
