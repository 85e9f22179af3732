//! Design mutants: mistakes this daemon could have been designed with, each put in at one place, to see whether the tests notice.
//!
//! Only a build with the feature `design-mutants` makes any, and only the one that `PAF_MUTANT` names. In every other build [`is`] is
//! the constant `false`, which is proven below when it is compiled, and `PAF_MUTANT` is refused like any unknown setting.
//!
//! *Why not patches applied to a copy:* they rot unseen. Mistakes in the source compile with it, and move with the code they spoil.

/// A mistake; `PAF_MUTANT` names it as [`Mutant::as_str`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Equal events of one second are one.
    Set,
    /// Of an identity only the number is compared, not what was journaled of it.
    CountWithoutPayload,
    /// The user, avatar and all, is part of the identity.
    IdentityWithAvatar,
    /// A head sweep begins at the tip.
    NoOverlap,
    /// What was read once is not read again.
    NoLaterLooks,
    /// A sweep follows continuation tokens and leaves its bounds where they are.
    FollowTokens,
    /// A window's coverage is committed in a transaction of its own, before its chunks.
    CoverageBeforeChunks,
    /// The checkpoint passes a chunk before its destination has answered.
    AcknowledgedBeforeAnswer,
    /// A key that is taken is taken for ours.
    TakenIsSuccess,
    /// An undecided conditional write (409) is taken for one that was made before.
    ConflictIsExists,
    /// `Retry-After: 0` is obeyed: at once, without a backoff.
    RetryAtOnce,
    /// Rows that were refused with 401 are given up.
    DropOn401,
    /// Rows that were refused with 413 are given up.
    DropOn413,
    /// An object is written before its number is claimed.
    ObjectBeforeClaim,
}

impl Mutant {
    pub const ALL: [Mutant; 14] = [
        Mutant::Set,
        Mutant::CountWithoutPayload,
        Mutant::IdentityWithAvatar,
        Mutant::NoOverlap,
        Mutant::NoLaterLooks,
        Mutant::FollowTokens,
        Mutant::CoverageBeforeChunks,
        Mutant::AcknowledgedBeforeAnswer,
        Mutant::TakenIsSuccess,
        Mutant::ConflictIsExists,
        Mutant::RetryAtOnce,
        Mutant::DropOn401,
        Mutant::DropOn413,
        Mutant::ObjectBeforeClaim,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Mutant::Set => "set-instead-of-multiset",
            Mutant::CountWithoutPayload => "count-without-payload",
            Mutant::IdentityWithAvatar => "identity-with-avatar",
            Mutant::NoOverlap => "no-overlap",
            Mutant::NoLaterLooks => "no-later-looks",
            Mutant::FollowTokens => "follow-tokens",
            Mutant::CoverageBeforeChunks => "coverage-before-chunks",
            Mutant::AcknowledgedBeforeAnswer => "acknowledged-before-answer",
            Mutant::TakenIsSuccess => "412-is-success",
            Mutant::ConflictIsExists => "409-is-exists",
            Mutant::RetryAtOnce => "retry-at-once",
            Mutant::DropOn401 => "drop-on-401",
            Mutant::DropOn413 => "drop-on-413",
            Mutant::ObjectBeforeClaim => "object-before-claim",
        }
    }
}

#[cfg(not(feature = "design-mutants"))]
mod switch {
    use super::Mutant;

    /// Whether this mistake is to be made: never.
    #[inline(always)]
    pub const fn is(_: Mutant) -> bool {
        false
    }

    /// Whether this environment variable is the switch: there is none.
    pub fn is_switch(_: &str) -> bool {
        false
    }

    const _: () = {
        let mut index = 0;
        while index < Mutant::ALL.len() {
            assert!(!is(Mutant::ALL[index]));
            index += 1;
        }
    };
}

#[cfg(feature = "design-mutants")]
mod switch {
    use std::sync::LazyLock;

    use super::Mutant;

    const SWITCH: &str = "PAF_MUTANT";

    static CHOSEN: LazyLock<Option<Mutant>> = LazyLock::new(|| {
        let name = std::env::var(SWITCH).ok().filter(|name| !name.is_empty())?;
        let mutant = Mutant::ALL.into_iter().find(|mutant| mutant.as_str() == name);
        // A misspelt one would make none, and look like a mutant that nothing notices.
        assert!(mutant.is_some(), "{SWITCH}={name} is none of {:?}", Mutant::ALL.map(Mutant::as_str));
        mutant
    });

    /// Whether this mistake is to be made.
    pub fn is(mutant: Mutant) -> bool {
        *CHOSEN == Some(mutant)
    }

    /// Whether this environment variable is the switch.
    pub fn is_switch(variable: &str) -> bool {
        variable == SWITCH
    }
}

pub use switch::{is, is_switch};
