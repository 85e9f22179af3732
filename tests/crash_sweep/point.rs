//! What can be made to go wrong, where and when; and how a person names it, to bring exactly that about again.

use std::fmt;
use std::str::FromStr;

/// The two runs of the script. The second finds what the first left: an hour that nobody has read, and a late event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    First,
    Second,
}

/// Where calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The state directory.
    Journal,
    /// The archive of the `file` destination.
    File,
    Pulumi,
    Entra,
    Azure,
    S3,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The process dies before the call.
    Kill,
    /// It dies after the call.
    After,
    /// It dies when the call has done half of its work.
    Half,
    /// As [`Fault::Kill`], and nothing survives that was not synced.
    Lost,
    /// It dies before a sync, and the write-ahead log ends at every byte since the one before.
    Torn,
    Eio,
    Enospc,
    /// The call does half of its work and says so.
    Short,
    /// SIGTERM before the call.
    Term,
    /// From this sync on every one fails, until somebody repairs the disk.
    Unsynced,
    /// From this call on every one is refused with the error, until then.
    ForEver(Refusal),
}

/// What a disk says that will not be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    Full,
    Quota,
    ReadOnly,
    Permission,
    FileSize,
}

/// Points that differ in their number only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Series {
    Call {
        act: Act,
        place: Place,
        fault: Fault,
    },
    /// Killed five times, during recovery too, at points drawn with the number as seed.
    Nested,
    /// The file system of the state directory fills up while the forwarder runs; the number says how much room is left.
    Full,
    /// Files may not grow beyond so many KiB (`ulimit -f`).
    Limited,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub series: Series,
    /// From 1 on.
    pub number: u64,
}

impl Act {
    pub const ALL: [Act; 2] = [Act::First, Act::Second];
}

impl Place {
    pub const ALL: [Place; 6] =
        [Place::Journal, Place::File, Place::Pulumi, Place::Entra, Place::Azure, Place::S3];
    pub const DISKS: [Place; 2] = [Place::Journal, Place::File];
    pub const SERVICES: [Place; 4] = [Place::Pulumi, Place::Entra, Place::Azure, Place::S3];

    pub fn name(self) -> &'static str {
        match self {
            Place::Journal => "journal",
            Place::File => "file",
            Place::Pulumi => "pulumi",
            Place::Entra => "entra",
            Place::Azure => "azure",
            Place::S3 => "s3",
        }
    }
}

const FAULTS: [(&str, Fault); 15] = [
    ("kill", Fault::Kill),
    ("after", Fault::After),
    ("half", Fault::Half),
    ("lost", Fault::Lost),
    ("torn", Fault::Torn),
    ("eio", Fault::Eio),
    ("enospc", Fault::Enospc),
    ("short", Fault::Short),
    ("term", Fault::Term),
    ("unsynced", Fault::Unsynced),
    ("full-for-ever", Fault::ForEver(Refusal::Full)),
    ("quota-for-ever", Fault::ForEver(Refusal::Quota)),
    ("read-only-for-ever", Fault::ForEver(Refusal::ReadOnly)),
    ("permission-for-ever", Fault::ForEver(Refusal::Permission)),
    ("file-size-for-ever", Fault::ForEver(Refusal::FileSize)),
];

impl Fault {
    pub fn name(self) -> &'static str {
        FAULTS.iter().find(|(_, fault)| *fault == self).map_or("", |(name, _)| name)
    }

    /// What `shim.c` is told.
    pub fn told(self) -> &'static str {
        match self {
            Fault::Kill | Fault::Lost | Fault::Torn => "kill",
            Fault::After => "after",
            Fault::Half => "half",
            Fault::Short => "short",
            Fault::Term => "term",
            Fault::Eio | Fault::Unsynced => "5",
            Fault::Enospc | Fault::ForEver(Refusal::Full) => "28",
            Fault::ForEver(Refusal::Quota) => "122",
            Fault::ForEver(Refusal::ReadOnly) => "30",
            Fault::ForEver(Refusal::Permission) => "13",
            Fault::ForEver(Refusal::FileSize) => "27",
        }
    }

    /// The calls that count for it; empty: all.
    pub fn calls(self) -> &'static str {
        match self {
            Fault::Short => "write,pwrite,writev,send",
            Fault::Torn | Fault::Unsynced => "fsync,fdatasync",
            // Reading goes on, and so does removing.
            Fault::ForEver(Refusal::Full | Refusal::Quota | Refusal::FileSize) => {
                "write,pwrite,writev,ftruncate,fallocate,mkdir,link,rename"
            }
            _ => "",
        }
    }

    pub fn kills(self) -> bool {
        matches!(self, Fault::Kill | Fault::After | Fault::Half | Fault::Lost | Fault::Torn)
    }

    pub fn lasts(self) -> bool {
        matches!(self, Fault::Unsynced | Fault::ForEver(_))
    }
}

/// How many seeds [`Series::Nested`] has in a whole sweep.
pub const NESTED: u64 = 200;

impl Series {
    pub fn all() -> Vec<Series> {
        let mut all = Vec::new();
        for act in Act::ALL {
            let mut add = |place, faults: &[Fault]| {
                all.extend(faults.iter().map(|fault| Series::Call { act, place, fault: *fault }));
            };
            for place in Place::DISKS {
                add(place, &[Fault::Kill, Fault::Eio, Fault::Enospc, Fault::Lost, Fault::Short]);
            }
            for place in Place::SERVICES {
                add(place, &[Fault::Kill, Fault::After, Fault::Half, Fault::Short]);
            }
            for place in Place::ALL {
                add(place, &[Fault::Term]);
            }
            add(Place::Journal, &[Fault::Torn]);
        }
        let lasting = [
            Fault::Unsynced,
            Fault::ForEver(Refusal::Full),
            Fault::ForEver(Refusal::Quota),
            Fault::ForEver(Refusal::ReadOnly),
            Fault::ForEver(Refusal::Permission),
            Fault::ForEver(Refusal::FileSize),
        ];
        for place in Place::DISKS {
            all.extend(lasting.map(|fault| Series::Call { act: Act::First, place, fault }));
        }
        all.extend([Series::Nested, Series::Full, Series::Limited]);
        all
    }

    /// Where it ends, if it does not end with a run that nothing happened to.
    pub fn last(self) -> Option<u64> {
        match self {
            Series::Call { .. } => None,
            Series::Nested => Some(NESTED),
            Series::Full => Some(4),
            Series::Limited => Some(4),
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Series::Call { act, place, fault } => {
                let act = match act {
                    Act::First => "first",
                    Act::Second => "second",
                };
                write!(f, "{act}/{}/{}", place.name(), fault.name())
            }
            Series::Nested => write!(f, "nested"),
            Series::Full => write!(f, "full"),
            Series::Limited => write!(f, "limited"),
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.series, self.number)
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Point, String> {
        let wrong = || {
            format!(
                "`{text}` is no point: it looks like first/journal/kill/17, second/s3/after/3 or nested/5"
            )
        };
        let (series, number) = text.rsplit_once('/').ok_or_else(wrong)?;
        let series = Series::all().into_iter().find(|known| known.to_string() == series).ok_or_else(wrong)?;
        let number = number.parse().ok().filter(|number| *number > 0).ok_or_else(wrong)?;
        Ok(Point { series, number })
    }
}
