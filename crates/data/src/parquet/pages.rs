//! Checks the pages of a Parquet file that somebody else has written, before the
//! reader trusts what they announce.
//!
//! The reader allocates what the header of a page claims, unpacks gzip without a
//! limit, and keeps all values of a row. Here each header is read, its claims are
//! compared with limits, and gzip is unpacked once without keeping the result. The
//! headers are in Thrift's compact protocol.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use flate2::read::MultiGzDecoder;
use parquet::{basic::Compression, file::metadata::ParquetMetaData};

/// The most bytes of the file's footer. Parsed, it takes many times as much.
const MAX_FOOTER: u64 = 4 << 20;
/// The most columns.
const MAX_COLUMNS: usize = 1000;
/// The most unpacked bytes of the pages that are in memory at once: one of each
/// column, and each column's dictionary.
const MAX_PAGES: u64 = 256 << 20;
/// The most values of lists in a row group. All of one row are in memory at once.
const MAX_LISTED: u64 = 4 << 20;
/// The most bytes of a page's header.
const MAX_HEADER: u64 = 1 << 20;
/// The most structs within structs of a header.
const MAX_DEPTH: u32 = 8;

/// Returns why the footer of a file can't be read.
pub(super) fn check_footer(file: &mut (impl Read + Seek)) -> Result<(), String> {
    let mut tail = [0; 8];
    let read = file
        .seek(SeekFrom::End(-8))
        .and_then(|_| file.read_exact(&mut tail));
    // The reader says what is wrong with a file that is too short.
    if read.is_err() {
        return Ok(());
    }
    let [a, b, c, d, ..] = tail;
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    match length > MAX_FOOTER {
        true => Err(format!(
            "its footer has {} KiB, {} KiB are allowed: write larger row groups",
            length >> 10,
            MAX_FOOTER >> 10
        )),
        false => Ok(()),
    }
}

/// Returns why the pages of a file can't be read.
pub(super) fn check_pages(
    file: impl Read + Seek,
    metadata: &ParquetMetaData,
) -> Result<(), String> {
    let columns = metadata.file_metadata().schema_descr().num_columns();
    if columns > MAX_COLUMNS {
        return Err(format!(
            "it has {columns} columns, {MAX_COLUMNS} are allowed: leave out those that are not \
             trained on"
        ));
    }
    let mut file = BufReader::new(file);
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let (mut unpacked, mut listed) = (0_u64, 0_u64);
        for column in group.columns() {
            let (start, length) = column.byte_range();
            let found = Chunk {
                file: &mut file,
                end: start.saturating_add(length),
                is_gzip: matches!(column.compression(), Compression::GZIP(_)),
            };
            let found = found.read(start);
            let found = found.map_err(|reason| format!("row group {}: {reason}", number + 1))?;
            unpacked = unpacked.saturating_add(found.largest + found.dictionary);
            if column.column_descr().max_rep_level() > 0 {
                listed = listed.saturating_add(found.values);
            }
        }
        if unpacked > MAX_PAGES {
            return Err(format!(
                "row group {}: its pages have {} MiB unpacked, {} MiB are allowed at once: write \
                 smaller pages",
                number + 1,
                unpacked >> 20,
                MAX_PAGES >> 20
            ));
        }
        if listed > MAX_LISTED {
            return Err(format!(
                "row group {}: its lists have {listed} values, {MAX_LISTED} are allowed: write \
                 smaller row groups",
                number + 1
            ));
        }
    }
    Ok(())
}

/// What the pages of a column claim.
#[derive(Default)]
struct Claims {
    /// Unpacked bytes of the largest page, and of the dictionary.
    largest: u64,
    dictionary: u64,
    values: u64,
}

/// The pages of one column in one row group.
struct Chunk<'a, F> {
    file: &'a mut BufReader<F>,
    end: u64,
    is_gzip: bool,
}

impl<F: Read + Seek> Chunk<'_, F> {
    fn read(mut self, start: u64) -> Result<Claims, String> {
        let mut claims = Claims::default();
        let mut place = start;
        while place < self.end {
            place = self.page(place, &mut claims)?;
        }
        Ok(claims)
    }

    /// Reads the page at a place. Returns the place of the next one.
    fn page(&mut self, place: u64, claims: &mut Claims) -> Result<u64, String> {
        let failed = |_| "the header of a page can't be read".to_owned();
        self.file.seek(SeekFrom::Start(place)).map_err(failed)?;
        let mut counted = Counted {
            from: (&mut *self.file).take(MAX_HEADER),
            count: 0,
        };
        let header = Header::read(&mut counted).map_err(failed)?;
        let body = place + counted.count;
        let (packed, unpacked) = header.sizes()?;
        let next = body + packed;
        if next > self.end {
            return Err("a page is longer than its column".to_owned());
        }
        if header.is_dictionary() {
            claims.dictionary = claims.dictionary.max(unpacked);
        } else {
            claims.largest = claims.largest.max(unpacked);
            claims.values += header.values()?;
        }
        if self.is_gzip {
            // The levels before the values of a page of version 2 are not packed.
            let levels = header.levels().min(packed);
            let skip = i64::try_from(levels).map_err(|_| failed(io::Error::other("levels")))?;
            self.file.seek_relative(skip).map_err(failed)?;
            let packed = (&mut *self.file).take(packed - levels);
            let limit = unpacked + 1;
            let mut values = MultiGzDecoder::new(packed).take(limit);
            // The reader tells of broken bytes.
            if io::copy(&mut values, &mut io::sink()).is_ok_and(|read| read == limit) {
                return Err(format!(
                    "a page unpacks to more than the {unpacked} bytes that it announces"
                ));
            }
        }
        Ok(next)
    }
}

/// Counts the bytes that are read.
struct Counted<R> {
    from: R,
    count: u64,
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

/// The whole numbers of a page's header, by the number of their field and, for a
/// member of a struct, that of the struct.
#[derive(Default)]
struct Header(Vec<((i16, i16), i64)>);

impl Header {
    fn read(from: &mut Counted<impl Read>) -> io::Result<Self> {
        let mut header = Self::default();
        header.structure(from, 0, 0)?;
        Ok(header)
    }

    /// Reads a struct, which is field `parent` of the one around it.
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
            match kind {
                // A boolean is in the kind.
                1 | 2 => {}
                4..=6 => {
                    let value = from.zigzag()?;
                    if depth < 2 {
                        self.0.push(((parent, field), value));
                    }
                }
                12 => self.structure(from, field, depth + 1)?,
                kind => self.skip(from, kind, depth)?,
            }
        }
    }

    /// Passes over a value of another kind than a number or a struct.
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
            // No number within a list is wanted.
            12 => self.structure(from, 0, depth.max(1) + 1),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn number(&self, parent: i16, field: i16) -> Option<i64> {
        let found = self.0.iter().find(|(place, _)| *place == (parent, field));
        found.map(|(_, value)| *value)
    }

    fn is_dictionary(&self) -> bool {
        self.number(0, 1) == Some(2)
    }

    /// The bytes of the page as they are stored, and unpacked.
    fn sizes(&self) -> Result<(u64, u64), String> {
        let size = |field| self.number(0, field).and_then(|n| u64::try_from(n).ok());
        let sizes = size(3).zip(size(2));
        sizes.ok_or_else(|| "the header of a page tells no sizes".to_owned())
    }

    /// The values of a page of data, of either version.
    fn values(&self) -> Result<u64, String> {
        let count = self.number(5, 1).or(self.number(8, 1)).unwrap_or(0);
        u64::try_from(count).map_err(|_| "a page announces fewer than no values".to_owned())
    }

    /// The bytes of the levels before the values in a page of version 2.
    fn levels(&self) -> u64 {
        let length = |field| self.number(8, field).and_then(|n| u64::try_from(n).ok());
        length(5).unwrap_or(0) + length(6).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, path::PathBuf};

    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;

    fn file(name: &str) -> File {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet");
        File::open(folder.join(name)).unwrap()
    }

    #[test]
    fn good_files_pass() {
        for name in ["none", "snappy", "gzip", "zstd", "labels", "pictures"] {
            let name = format!("{name}.parquet");
            check_footer(&mut file(&name)).unwrap();
            let reader = SerializedFileReader::new(file(&name)).unwrap();
            check_pages(file(&name), reader.metadata()).unwrap();
        }
    }

    /// A header with a page's kind and its sizes, unpacked and packed.
    fn header(unpacked: u8, packed: u8, values: u8) -> Vec<u8> {
        vec![
            0x15, 0, 0x15, unpacked, 0x15, packed, 0x2c, 0x15, values, 0, 0,
        ]
    }

    fn claims(bytes: &[u8], is_gzip: bool) -> Result<Claims, String> {
        let mut file = BufReader::new(io::Cursor::new(bytes));
        let chunk = Chunk {
            file: &mut file,
            end: bytes.len() as u64,
            is_gzip,
        };
        chunk.read(0)
    }

    #[test]
    fn what_pages_claim_is_found_and_lies_are_told() {
        // Numbers are in zigzag form: 2 n.
        let mut pages = header(100, 6, 14);
        pages.extend(*b"abc");
        pages.extend(header(40, 2, 8));
        pages.push(b'd');
        let found = claims(&pages, false).unwrap();
        assert_eq!((found.largest, found.values), (50, 11));
        pages.pop();
        assert!(claims(&pages, false).err().unwrap().contains("longer"));
        let negative = header(99, 6, 14);
        assert!(claims(&negative, false).err().unwrap().contains("no sizes"));

        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        io::Write::write_all(&mut packed, &[7; 5000]).unwrap();
        let packed = packed.finish().unwrap();
        let mut bomb = header(100, packed.len() as u8 * 2, 2);
        bomb.extend(&packed);
        let told = claims(&bomb, true).err().unwrap();
        assert!(told.contains("more than the 50 bytes"), "{told}");
        assert!(claims(&bomb, false).is_ok());
    }

    #[test]
    fn no_header_is_followed_for_ever() {
        let deep = vec![0x1c; 4000];
        assert!(claims(&deep, false).is_err());
        // A list of very many structs, each of which is one byte.
        let mut list = vec![0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x0f];
        list.extend(vec![0; 100]);
        assert!(claims(&list, false).is_err());
    }
}
