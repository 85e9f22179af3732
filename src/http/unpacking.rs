//! An answer's body, unpacked while it comes in and never beyond its limit.
//!
//! It is given pieces and gives back a whole; where they come from and how long that may take is for [`super::client`].

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;

use super::Failure;

/// Larger bodies are read one at a time. Real pages have tens of kilobytes. Whoever waits for the turn holds this much already.
pub(super) const LARGE_BODY_BYTES: usize = 1024 * 1024;

/// A body that is unpacked while it comes in, up to `limit` bytes, so that a bomb costs no more than a page. A proxy may have decoded
/// it and left the label, or the reverse: the magic bytes decide. No JSON begins with them.
pub(crate) struct Unpacking {
    limit: usize,
    state: State,
}

enum State {
    /// Fewer bytes than tell what it is.
    Unknown(Vec<u8>),
    Plain(Vec<u8>),
    Gzip(Box<MultiGzDecoder<Bounded>>),
}

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

impl Unpacking {
    pub(crate) fn new(limit: usize) -> Unpacking {
        Unpacking { limit, state: State::Unknown(Vec::new()) }
    }

    /// Bytes so far, unpacked.
    pub(super) fn len(&self) -> usize {
        match &self.state {
            State::Unknown(plain) | State::Plain(plain) => plain.len(),
            State::Gzip(decoder) => decoder.get_ref().plain.len(),
        }
    }

    pub(crate) fn add(&mut self, piece: &[u8]) -> Result<(), Failure> {
        if let State::Unknown(begun) = &mut self.state {
            begun.extend_from_slice(piece);
            if begun.len() < GZIP_MAGIC.len() {
                return Ok(());
            }
            let begun = std::mem::take(begun);
            let bounded = Bounded { plain: Vec::new(), limit: self.limit, overflowed: false };
            self.state = if begun.starts_with(&GZIP_MAGIC) {
                State::Gzip(Box::new(MultiGzDecoder::new(bounded)))
            } else {
                State::Plain(Vec::new())
            };
            return self.add(&begun);
        }
        let written = match &mut self.state {
            State::Unknown(plain) | State::Plain(plain) => {
                if plain.len() + piece.len() > self.limit {
                    return Err(Failure::TooLarge(self.limit));
                }
                grow(plain, piece, self.limit);
                Ok(())
            }
            State::Gzip(decoder) => decoder.write_all(piece),
        };
        written.map_err(|error| self.undecodable(&error))
    }

    pub(crate) fn finish(mut self, labelled: bool) -> Result<Vec<u8>, Failure> {
        match &mut self.state {
            State::Unknown(plain) | State::Plain(plain) => {
                if labelled && plain.first().is_some_and(|byte| !byte.is_ascii()) {
                    return Err(Failure::Undecodable("labelled gzip, and is not".into()));
                }
                Ok(std::mem::take(plain))
            }
            State::Gzip(decoder) => match decoder.try_finish() {
                Ok(()) => Ok(std::mem::take(&mut decoder.get_mut().plain)),
                Err(error) => Err(self.undecodable(&error)),
            },
        }
    }

    fn undecodable(&self, error: &io::Error) -> Failure {
        match &self.state {
            State::Gzip(decoder) if decoder.get_ref().overflowed => Failure::TooLarge(self.limit),
            _ => Failure::Undecodable(error.to_string()),
        }
    }
}

/// A body that has become large gets all the room it may need at once, which costs nothing until it is written to: growing by
/// doubling would leave holes as large as itself in the allocator.
fn grow(plain: &mut Vec<u8>, piece: &[u8], limit: usize) {
    if plain.capacity() < limit && plain.len() + piece.len() > LARGE_BODY_BYTES {
        plain.reserve_exact(limit - plain.len());
    }
    plain.extend_from_slice(piece);
}

/// Takes so many bytes, and no more.
struct Bounded {
    plain: Vec<u8>,
    limit: usize,
    overflowed: bool,
}

impl Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.plain.len() + piece.len() > self.limit {
            self.overflowed = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        grow(&mut self.plain, piece, self.limit);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
