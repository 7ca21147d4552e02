//! Parses the headers of Parquet pages, which are in Thrift's compact protocol.
//!
//! The numbers of the fields are those of `PageHeader` in `parquet.thrift`.

use std::io::{self, Read};

/// Maximum bytes of a page header.
pub(super) const MAX_HEADER: u64 = 1 << 20;
/// Maximum depth of nested structs in a header.
const MAX_DEPTH: u32 = 8;

/// Reads and counts bytes.
pub(super) struct Counted<R> {
    pub(super) from: R,
    /// Number of bytes that were read.
    pub(super) count: u64,
}

impl<R: Read> Counted<R> {
    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.from.read_exact(&mut byte)?;
        self.count += 1;
        Ok(byte[0])
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.from).take(bytes), &mut io::sink())?;
        self.count += skipped;
        match skipped == bytes {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    fn zigzag(&mut self) -> io::Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

/// The integers of a page header.
///
/// The key is the field number of the enclosing struct, or 0 for the header itself, and
/// the field number of the integer.
#[derive(Default)]
pub(super) struct Header(Vec<((i16, i16), i64)>);

impl Header {
    pub(super) fn read(from: &mut Counted<impl Read>) -> io::Result<Self> {
        let mut header = Self::default();
        header.structure(from, 0, 0)?;
        Ok(header)
    }

    /// Reads a struct, which is field `parent` of the enclosing struct.
    fn structure(
        &mut self,
        from: &mut Counted<impl Read>,
        parent: i16,
        depth: u32,
    ) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut field = 0_i16;
        loop {
            let byte = from.byte()?;
            let kind = byte & 0x0f;
            if kind == 0 {
                return Ok(());
            }
            field = match byte >> 4 {
                0 => from.zigzag()? as i16,
                delta => field.wrapping_add(i16::from(delta)),
            };
            // The reader takes fields for what they should be, whatever their type is.
            let expected = match (depth, parent, field) {
                (0, _, 1..=4) | (1, 5, 1..=4) | (1, 7, 1..=2) | (1, 8, 1..=6) => 5,
                (0, _, 5..=8) => 12,
                _ => kind,
            };
            if kind != expected {
                return Err(io::ErrorKind::InvalidData.into());
            }
            match kind {
                // The type of a boolean contains its value.
                1 | 2 => {}
                4..=6 => {
                    let value = from.zigzag()?;
                    if depth < 2 {
                        // The reader takes the last of repeated fields.
                        if self.number(parent, field).is_some() {
                            return Err(io::ErrorKind::InvalidData.into());
                        }
                        self.0.push(((parent, field), value));
                    }
                }
                12 => self.structure(from, field, depth + 1)?,
                kind => self.skip(from, kind, depth)?,
            }
        }
    }

    /// Skips a value, for example in a list.
    fn skip(&mut self, from: &mut Counted<impl Read>, kind: u8, depth: u32) -> io::Result<()> {
        match kind {
            1..=3 => from.skip(1),
            4..=6 => from.varint().map(drop),
            7 => from.skip(8),
            8 => {
                let length = from.varint()?;
                from.skip(length)
            }
            9 | 10 => {
                let head = from.byte()?;
                let count = match head >> 4 {
                    15 => from.varint()?,
                    short => u64::from(short),
                };
                (0..count).try_for_each(|_| self.skip(from, head & 0x0f, depth + 1))
            }
            // A depth of 2 or more drops the integers of structs in lists.
            12 => self.structure(from, 0, depth.max(1) + 1),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Returns an integer of the header.
    fn number(&self, parent: i16, field: i16) -> Option<i64> {
        let found = self.0.iter().find(|(place, _)| *place == (parent, field));
        found.map(|(_, value)| *value)
    }

    /// Returns whether the page is a dictionary page.
    pub(super) fn is_dictionary(&self) -> bool {
        self.number(0, 1) == Some(2)
    }

    /// Returns the compressed and decompressed bytes of the page.
    pub(super) fn sizes(&self) -> Result<(u64, u64), String> {
        let size = |field| self.number(0, field).and_then(|n| u64::try_from(n).ok());
        let sizes = size(3).zip(size(2));
        sizes.ok_or_else(|| "the header of a page has no valid sizes".to_owned())
    }

    /// Returns the bytes of the levels before the values of a data page of version 2.
    pub(super) fn levels(&self) -> u64 {
        let length = |field| self.number(8, field).and_then(|n| u64::try_from(n).ok());
        length(5).unwrap_or(0) + length(6).unwrap_or(0)
    }
}
