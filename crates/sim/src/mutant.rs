//! Deliberate mistakes. Each is made in the store or in the driver around the rule, which stays as it is; the checkers
//! have to notice every one of them.

macro_rules! mutants {
    ($($name:ident $text:literal,)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Mutant { $($name,)* }

        impl Mutant {
            pub const ALL: &[Mutant] = &[$(Mutant::$name,)*];

            pub fn what(self) -> &'static str {
                match self { $(Mutant::$name => $text,)* }
            }
        }
    };
}

mutants! {
    ArrivalWins "the change that arrives last wins",
    TieByApplier "equal timestamps: the applying node's own row wins",
    NoTombstones "a delete leaves nothing behind",
    EarlyCollection "a tombstone is dropped when the next peer, not every peer, has passed it",
    PromiseIsEnough "a tombstone is dropped when nothing older will come here, though a peer may not have applied it",
    ParkedIgnored "parked work does not hold the horizon",
    ToastGuessed "a left-out value is taken from whatever row is here",
    FetchBringsCounter "a fetched row brings its counter along",
    DeltaAsValue "a delta column is overwritten like any other",
    DeltaOnlyIfWins "a contribution of a losing update is dropped",
    DeleteTakesCounter "a tombstone forgets the counter",
    VoidWithoutRegister "each void of a residue is subtracted, however often it was voided",
    RemovalLocal "the removal of a unique loser is not replicated",
    RemovalInSameTransaction "a removal is announced at once but done with the transaction that led to it",
    RemovalTie "a tombstone of a removal loses against the live row of the same stamp",
    DeleteTie "a delete beats a later insert of the same transaction",
    ForeignKeyUnchecked "foreign keys are not checked on apply",
    ParentAlone "a parent comes back without its own parents",
    TruncateUnstamped "a truncate empties the table whatever the rows' stamps",
    NoCommitWait "a node's stamps do not pass those it has seen",
    SilentOverwrite "an overwritten concurrent row leaves no history",
    OwnIsAlwaysHere "a change of an own version is taken to be sequential, though transactions before it were set aside",
    FrozenWins "a row whose stamp is forgotten is kept",
    FlushedTooEarly "the position is durable before the transaction is",
    AppliedTwice "a transaction that is sent again is applied again",
    UnflushedIsSent "a provider sends what a crash can still take back",
    PositionPassesParked "a transaction that fails is passed by without being parked",
    ReplayedAnew "a replayed transaction gets a new stamp",
    ReplayedTwice "a crash between a replay and its end makes it happen twice",
    ReplayNotAtomic "a parked transaction is taken away before what it did is durable",
    LeftOutAlone "other changes of a row are applied though one of the same transaction is left out",
    LeftOutFromThereOn "earlier changes of a row are applied though a later one of the same transaction is left out",
    Torn "a transaction is committed after its first change, and again after the rest",
}

impl Mutant {
    /// The name as it is given on the command line: `arrival_wins`.
    pub fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    pub fn named(name: &str) -> Option<Mutant> {
        Mutant::ALL.iter().copied().find(|mutant| mutant.name() == name)
    }
}
