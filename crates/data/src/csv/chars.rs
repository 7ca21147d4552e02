//! From bytes to characters, a piece at a time. A byte that the encoding does
//! not know is an error, never a replacement character.

use std::io::{self, Read};

use encoding_rs::{Decoder, DecoderResult, Encoding};

use crate::error::{Error, Result};

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// The upper half of the code page of DOS, which the web does not know.
const CP437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";
/// That of western Europe.
const CP850: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜø£Ø×ƒáíóúñÑªº¿®¬½¼¡«»░▒▓│┤ÁÂÀ©╣║╗╝¢¥┐└┴┬├─┼ãÃ╚╔╩╦╠═╬¤ðÐÊËÈıÍÎÏ┘┌█▄¦Ì▀ÓßÔÒõÕµþÞÚÛÙýÝ¯´\u{ad}±‗¾¶§÷¸°¨·¹³²■\u{a0}";

/// How bytes are read as characters.
#[derive(Clone, Copy, Debug)]
pub(super) enum Charset {
    Web(&'static Encoding),
    /// The characters of the bytes from 128 on; bytes without one are errors.
    Page(&'static str),
}

impl Charset {
    /// Finds the encoding of an option, by Python's name or the web's.
    pub(super) fn find(encoding: &str) -> Result<Self> {
        let label = encoding.trim().to_ascii_lowercase().replace('_', "-");
        let label = match label.as_str() {
            "latin-1" | "latin" | "iso8859-1" => "latin1",
            "utf-8-sig" | "utf8" => "utf-8",
            "utf-16-le" => "utf-16le",
            "utf-16-be" => "utf-16be",
            "cp437" | "437" | "ibm437" => return Ok(Self::Page(CP437)),
            "cp850" | "850" | "ibm850" => return Ok(Self::Page(CP850)),
            // The web takes it for windows-1252, so that UTF-8 would be misread.
            "ascii" | "us-ascii" | "646" => return Ok(Self::Page("")),
            "utf-32" => "unsupported",
            other => other,
        };
        let known = Encoding::for_label(label.as_bytes()).map(Self::Web);
        known.ok_or_else(|| {
            Error::setup(format!(
                "`encoding` is `{encoding}`: utf-8, utf-16, latin-1, cp437, cp850 and the other \
                 encodings of the web are known"
            ))
        })
    }
}

/// Why there is no next character.
#[derive(Debug)]
pub(super) enum Broken {
    /// The bytes are not of this encoding.
    Encoding(String),
    Io(io::Error),
}

/// The characters of a reader. A byte order mark says more than the option.
pub(super) struct Chars<R> {
    from: R,
    decoding: Decoding,
    bytes: Box<[u8]>,
    /// What of `bytes` is still to be decoded.
    start: usize,
    end: usize,
    text: String,
    place: usize,
    is_last: bool,
    ended: bool,
    broken: Option<Broken>,
}

enum Decoding {
    Web(Box<Decoder>),
    Page(Vec<char>),
}

impl<R: Read> Chars<R> {
    pub(super) fn new(from: R, charset: Charset) -> Self {
        Self {
            from,
            decoding: match charset {
                Charset::Web(encoding) => Decoding::Web(Box::new(encoding.new_decoder())),
                Charset::Page(upper) => Decoding::Page(upper.chars().collect()),
            },
            bytes: vec![0; PIECE].into(),
            start: 0,
            end: 0,
            text: String::new(),
            place: 0,
            is_last: false,
            ended: false,
            broken: None,
        }
    }

    /// Decodes more, after all of `text` was taken.
    fn fill(&mut self) -> Result<(), Broken> {
        self.text.clear();
        self.place = 0;
        if self.start == self.end && !self.is_last {
            (self.start, self.end) = (0, 0);
            self.end = loop {
                match self.from.read(&mut self.bytes) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read.map_err(Broken::Io)?,
                }
            };
            self.is_last = self.end == 0;
        }
        let bytes = &self.bytes[self.start..self.end];
        match &mut self.decoding {
            Decoding::Page(upper) => {
                let char_of = |byte: &u8| match byte.checked_sub(128) {
                    Some(upper_byte) => upper.get(usize::from(upper_byte)).copied(),
                    None => Some(char::from(*byte)),
                };
                let good: Vec<char> = bytes.iter().map_while(char_of).collect();
                self.text.extend(&good);
                self.ended = self.is_last;
                if good.len() < bytes.len() {
                    // What comes before it is good.
                    self.ended = true;
                    self.broken = Some(Broken::Encoding("ASCII".to_owned()));
                }
                self.start = self.end;
            }
            Decoding::Web(decoder) => {
                // At least as much as one character takes.
                let room = decoder.max_utf8_buffer_length_without_replacement(bytes.len());
                self.text.reserve(room.unwrap_or(4 * PIECE).max(16));
                let (result, read) = decoder.decode_to_string_without_replacement(
                    bytes,
                    &mut self.text,
                    self.is_last,
                );
                self.start += read;
                match result {
                    DecoderResult::InputEmpty => self.ended = self.is_last,
                    DecoderResult::OutputFull => {}
                    DecoderResult::Malformed(..) => {
                        // What comes before it is good.
                        self.ended = true;
                        let name = decoder.encoding().name().to_owned();
                        self.broken = Some(Broken::Encoding(name));
                    }
                }
            }
        }
        Ok(())
    }
}

impl<R: Read> Iterator for Chars<R> {
    type Item = Result<char, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(c) = self.text[self.place..].chars().next() {
                self.place += c.len_utf8();
                return Some(Ok(c));
            }
            if self.ended {
                return self.broken.take().map(Err);
            }
            if let Err(broken) = self.fill() {
                self.ended = true;
                return Some(Err(broken));
            }
        }
    }
}

/// Returns which UTF-16 a file without a mark is that was announced as
/// something else: every second byte of a western text is 0.
pub(super) fn looks_like_utf16(start: &[u8]) -> Option<&'static str> {
    let zeros = |odd: usize| {
        start
            .iter()
            .skip(odd)
            .step_by(2)
            .filter(|b| **b == 0)
            .count()
    };
    let (even, odd) = (zeros(0), zeros(1));
    let most = start.len() * 2 / 5;
    match (even, odd) {
        _ if start.len() < 8
            || start.starts_with(b"\xff\xfe")
            || start.starts_with(b"\xfe\xff") =>
        {
            None
        }
        (0, odd) if odd >= most => Some("utf-16le"),
        (even, 0) if even >= most => Some("utf-16be"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], encoding: &str) -> Result<String, Broken> {
        Chars::new(bytes, Charset::find(encoding).unwrap()).collect()
    }

    #[test]
    fn python_and_dos_names_of_encodings_are_known() {
        let utf16: Vec<u8> = "größe".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(read(&utf16, "utf_16_le").unwrap(), "größe");
        assert_eq!(read(b"gr\x94\xe1e \xe3", "cp437").unwrap(), "größe π");
        assert_eq!(read(b"gr\x94\xe1e \xe3", "cp850").unwrap(), "größe Ò");
        assert_eq!(read(b"\xa4", "iso8859_15").unwrap(), "€");
        assert_eq!(read(b"\xef\xbb\xbfa", "utf-8").unwrap(), "a");
        let error = Charset::find("klingon").unwrap_err().to_string();
        assert!(
            error.contains("klingon") && error.contains("cp437"),
            "{error}"
        );
    }

    #[test]
    fn what_comes_before_a_wrong_byte_is_read() {
        let mut chars = Chars::new(&b"a\xef\xbf\xbdb\xff"[..], Charset::find("utf-8").unwrap());
        let good: String = chars.by_ref().map_while(Result::ok).collect();
        // The error was taken with the last good character.
        assert_eq!(good, "a\u{fffd}b");
        let large = ["x".repeat(3 * PIECE), "é".repeat(PIECE)].concat();
        assert_eq!(read(large.as_bytes(), "utf-8").unwrap(), large);
        assert!(matches!(read(b"ab\xc3", "utf-8"), Err(Broken::Encoding(_))));
    }

    #[test]
    fn utf16_without_a_mark_is_seen() {
        let le: Vec<u8> = "red,dress\n"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let be: Vec<u8> = "red,dress\n"
            .encode_utf16()
            .flat_map(u16::to_be_bytes)
            .collect();
        assert_eq!(looks_like_utf16(&le), Some("utf-16le"));
        assert_eq!(looks_like_utf16(&be), Some("utf-16be"));
        assert_eq!(looks_like_utf16(b"a red\0dress,dress\n"), None);
    }
}
