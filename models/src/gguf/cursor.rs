use std::fmt;
use std::ops::Range;

/// A place in a file and what is wrong there.
#[derive(Debug)]
pub(super) struct Fault {
    pub at: usize,
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.at, self.message)
    }
}

/// Reads forward through a file; nothing is ever taken that the file does not have.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Starts at byte `at`, or at the end where the file is shorter.
    pub fn starting_at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at: at.min(bytes.len()) }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn fault(&self, message: impl Into<String>) -> Fault {
        Fault { at: self.at, message: message.into() }
    }

    /// The next `count` bytes, as a range of the file.
    pub fn skip(&mut self, count: u64, what: &str) -> Result<Range<usize>, Fault> {
        match usize::try_from(count) {
            Ok(count) if count <= self.remaining() => {
                let range = self.at..self.at + count;
                self.at = range.end;
                Ok(range)
            }
            _ => {
                Err(self.fault(format!("{what} takes {count} bytes, the file has {} more", self.remaining())))
            }
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Fault> {
        let range = self.skip(N as u64, what)?;
        match self.bytes.get(range).and_then(|bytes| bytes.first_chunk()) {
            Some(chunk) => Ok(*chunk),
            None => Err(self.fault(format!("{what} is cut off"))),
        }
    }

    pub fn u8(&mut self, what: &str) -> Result<u8, Fault> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    pub fn u16(&mut self, what: &str) -> Result<u16, Fault> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub fn u32(&mut self, what: &str) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub fn u64(&mut self, what: &str) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count of things that take at least `least` bytes each, so that no more can be promised than fit.
    pub fn count(&mut self, least: usize, what: &str) -> Result<u64, Fault> {
        let at = self.at;
        let count = self.u64(what)?;
        if count > (self.remaining() / least) as u64 {
            return Err(Fault {
                at,
                message: format!(
                    "{what} is {count}, more than fit into the remaining {} bytes",
                    self.remaining()
                ),
            });
        }
        Ok(count)
    }

    /// A length and as many bytes of text, as a range of the file.
    pub fn string(&mut self, what: &str) -> Result<Range<usize>, Fault> {
        let length = self.u64(what)?;
        self.skip(length, what)
    }

    /// A short name in UTF-8.
    pub fn name(&mut self, what: &str) -> Result<&'a str, Fault> {
        const MAX_NAME: usize = 1024;
        let at = self.at;
        let range = self.string(what)?;
        if range.len() > MAX_NAME {
            return Err(Fault {
                at,
                message: format!("{what} is {} bytes long, at most {MAX_NAME} are accepted", range.len()),
            });
        }
        let bytes = self.bytes.get(range).unwrap_or_default();
        std::str::from_utf8(bytes).map_err(|_| Fault { at, message: format!("{what} is not UTF-8") })
    }
}
