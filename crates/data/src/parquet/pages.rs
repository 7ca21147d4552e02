//! Limits for Parquet files from another user, against files that exhaust the memory.
//!
//! The reader allocates the sizes that page headers declare, decompresses gzip without a
//! limit, and keeps all values of a row. This module compares the declared sizes of all
//! pages with limits, and decompresses gzip once, without keeping the result, to verify
//! them.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use finetuner_protocol::text::start_of;
use flate2::read::MultiGzDecoder;
use parquet::{basic::Compression, file::metadata::ParquetMetaData};

use super::header::{Counted, Header, MAX_HEADER};

/// Maximum bytes of the footer. A parsed footer takes many times as much memory.
const MAX_FOOTER: u64 = 4 << 20;
/// Maximum number of columns.
const MAX_COLUMNS: usize = 1000;
/// Maximum decompressed bytes of the pages that are in memory at once: the largest page
/// and the dictionary of each column.
const MAX_PAGES: u64 = 256 << 20;

/// Checks the size of the footer. Returns the reason if it is too large.
pub(super) fn check_footer(file: &mut (impl Read + Seek)) -> Result<(), String> {
    let mut tail = [0; 8];
    let read = file
        .seek(SeekFrom::End(-8))
        .and_then(|_| file.read_exact(&mut tail));
    // The reader reports a file that is too short.
    if read.is_err() {
        return Ok(());
    }
    let [a, b, c, d, ..] = tail;
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    match length > MAX_FOOTER {
        true => Err(format!(
            "its footer has {} KiB, at most {} KiB are allowed: write larger row groups",
            length >> 10,
            MAX_FOOTER >> 10
        )),
        false => Ok(()),
    }
}

/// Checks the sizes of all pages. Returns the reason if they are too large or invalid.
pub(super) fn check_pages(
    file: impl Read + Seek,
    metadata: &ParquetMetaData,
) -> Result<(), String> {
    let columns = metadata.file_metadata().schema_descr().num_columns();
    if columns > MAX_COLUMNS {
        return Err(format!(
            "it has {columns} columns, at most {MAX_COLUMNS} are allowed: remove those that are \
             not used for training"
        ));
    }
    // All values of a row are in memory at once, and a few bytes can repeat a long text
    // millions of times in the list of one row.
    let columns = metadata.file_metadata().schema_descr().columns();
    if let Some(list) = columns.iter().find(|column| column.max_rep_level() > 0) {
        return Err(format!(
            "column `{}` has lists, which are not allowed here: give each item a column",
            start_of(&list.path().string())
        ));
    }
    let mut file = BufReader::new(file);
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let mut unpacked = 0_u64;
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
        }
        if unpacked > MAX_PAGES {
            return Err(format!(
                "row group {}: its pages take {} MiB of memory, at most {} MiB are allowed: write \
                 smaller pages",
                number + 1,
                unpacked >> 20,
                MAX_PAGES >> 20
            ));
        }
    }
    Ok(())
}

/// The sizes that the pages of a column declare.
#[derive(Default)]
struct Sizes {
    /// Decompressed bytes of the largest data page, and of the dictionary.
    largest: u64,
    dictionary: u64,
}

/// The pages of one column in one row group.
struct Chunk<'a, F> {
    file: &'a mut BufReader<F>,
    end: u64,
    is_gzip: bool,
}

impl<F: Read + Seek> Chunk<'_, F> {
    /// Checks all pages from the offset `start`.
    fn read(mut self, start: u64) -> Result<Sizes, String> {
        let mut sizes = Sizes::default();
        let mut offset = start;
        while offset < self.end {
            offset = self.page(offset, &mut sizes)?;
        }
        Ok(sizes)
    }

    /// Checks the page at an offset. Returns the offset of the next page.
    fn page(&mut self, offset: u64, sizes: &mut Sizes) -> Result<u64, String> {
        let failed = |_| "the header of a page can't be read".to_owned();
        self.file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        let mut counted = Counted {
            from: (&mut *self.file).take(MAX_HEADER),
            count: 0,
        };
        let header = Header::read(&mut counted).map_err(failed)?;
        let body = offset + counted.count;
        let (packed, unpacked) = header.sizes()?;
        let next = body + packed;
        if next > self.end {
            return Err("a page is longer than its column".to_owned());
        }
        if header.is_dictionary() {
            sizes.dictionary = sizes.dictionary.max(unpacked);
        } else {
            sizes.largest = sizes.largest.max(unpacked);
        }
        if self.is_gzip {
            // In a data page of version 2, the levels before the values are not compressed.
            let levels = header.levels().min(packed);
            let skip = i64::try_from(levels).map_err(|_| failed(io::Error::other("levels")))?;
            self.file.seek_relative(skip).map_err(failed)?;
            let packed = (&mut *self.file).take(packed - levels);
            let limit = unpacked + 1;
            let mut values = MultiGzDecoder::new(packed).take(limit);
            // The reader reports bytes that can't be decompressed.
            if io::copy(&mut values, &mut io::sink()).is_ok_and(|read| read == limit) {
                return Err(format!(
                    "a page decompresses to more than the {unpacked} bytes that its header declares"
                ));
            }
        }
        Ok(next)
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
    fn good_files_pass_unless_they_have_lists() {
        let check = |name: &str| {
            let name = format!("{name}.parquet");
            check_footer(&mut file(&name)).unwrap();
            let reader = SerializedFileReader::new(file(&name)).unwrap();
            check_pages(file(&name), reader.metadata())
        };
        for name in ["labels", "pictures"] {
            check(name).unwrap();
        }
        for name in ["none", "snappy", "gzip", "zstd"] {
            let reason = check(name).unwrap_err();
            assert!(
                reason.contains("`negative.list.element` has lists"),
                "{reason}"
            );
        }
    }

    /// Returns the header of a data page. Numbers are in zigzag form: 2 n.
    fn header(unpacked: u8, packed: u8, values: u8) -> Vec<u8> {
        vec![
            0x15, 0, 0x15, unpacked, 0x15, packed, 0x2c, 0x15, values, 0, 0,
        ]
    }

    fn sizes(bytes: &[u8], is_gzip: bool) -> Result<Sizes, String> {
        let mut file = BufReader::new(io::Cursor::new(bytes));
        let chunk = Chunk {
            file: &mut file,
            end: bytes.len() as u64,
            is_gzip,
        };
        chunk.read(0)
    }

    #[test]
    fn declared_sizes_are_read_and_verified() {
        let mut pages = header(100, 6, 14);
        pages.extend(*b"abc");
        pages.extend(header(40, 2, 8));
        pages.push(b'd');
        let found = sizes(&pages, false).unwrap();
        assert_eq!(found.largest, 50);
        pages.pop();
        assert!(sizes(&pages, false).err().unwrap().contains("longer"));
        let negative = header(99, 6, 14);
        assert!(
            sizes(&negative, false)
                .err()
                .unwrap()
                .contains("no valid sizes")
        );

        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        io::Write::write_all(&mut packed, &[7; 5000]).unwrap();
        let packed = packed.finish().unwrap();
        let mut bomb = header(100, packed.len() as u8 * 2, 2);
        bomb.extend(&packed);
        let reported = sizes(&bomb, true).err().unwrap();
        assert!(reported.contains("more than the 50 bytes"), "{reported}");
        assert!(sizes(&bomb, false).is_ok());
    }

    #[test]
    fn nested_headers_are_limited() {
        let deep = vec![0x1c; 4000];
        assert!(sizes(&deep, false).is_err());
        // A list that declares very many structs of one byte each.
        let mut list = vec![0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x0f];
        list.extend(vec![0; 100]);
        assert!(sizes(&list, false).is_err());
        // A size that is given twice, and one of another type.
        let mut twice = header(100, 6, 14);
        twice.splice(6..6, [0x05, 4, 0xfe, 0xff, 0xff, 0xff, 0x0f]);
        assert!(sizes(&twice, false).is_err());
        let mut other = header(100, 6, 14);
        other[2] = 0x13;
        assert!(sizes(&other, false).is_err());
    }
}
