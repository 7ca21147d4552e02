//! Decodes bytes to characters incrementally. Invalid bytes are errors and never become
//! replacement characters.

use std::io::{self, Read};

use encoding_rs::{Decoder, DecoderResult, Encoding};

use crate::error::{Error, Result};

/// Bytes of a read.
const PIECE: usize = 64 << 10;

/// Characters 128 to 255 of DOS code page 437, which is not an encoding of the web.
const CP437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";
/// Characters 128 to 255 of DOS code page 850, for western Europe.
const CP850: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜø£Ø×ƒáíóúñÑªº¿®¬½¼¡«»░▒▓│┤ÁÂÀ©╣║╗╝¢¥┐└┴┬├─┼ãÃ╚╔╩╦╠═╬¤ðÐÊËÈıÍÎÏ┘┌█▄¦Ì▀ÓßÔÒõÕµþÞÚÛÙýÝ¯´\u{ad}±‗¾¶§÷¸°¨·¹³²■\u{a0}";

/// A character encoding.
#[derive(Clone, Copy, Debug)]
pub(super) enum Charset {
    /// An encoding of the WHATWG Encoding Standard.
    Web(&'static Encoding),
    /// ASCII and the characters of the bytes from 128 on. Other bytes are errors.
    Page(&'static str),
}

impl Charset {
    /// Returns the encoding with a name of Python or of the web.
    pub(super) fn find(encoding: &str) -> Result<Self> {
        let label = encoding.trim().to_ascii_lowercase().replace('_', "-");
        let label = match label.as_str() {
            "latin-1" | "latin" | "iso8859-1" => "latin1",
            "utf-8-sig" | "utf8" => "utf-8",
            "utf-16-le" => "utf-16le",
            "utf-16-be" => "utf-16be",
            "cp437" | "437" | "ibm437" => return Ok(Self::Page(CP437)),
            "cp850" | "850" | "ibm850" => return Ok(Self::Page(CP850)),
            // The web treats ASCII as windows-1252, which would misread UTF-8.
            "ascii" | "us-ascii" | "646" => return Ok(Self::Page("")),
            "utf-32" => "unsupported",
            other => other,
        };
        let known = Encoding::for_label(label.as_bytes()).map(Self::Web);
        known.ok_or_else(|| {
            Error::setup(format!(
                "`encoding` is `{encoding}`, which is not supported: give utf-8, utf-16, latin-1, \
                 cp437, cp850 or another encoding of the web"
            ))
        })
    }
}

/// Reason why no more characters can be read.
#[derive(Debug)]
pub(super) enum DecodeError {
    /// A byte is invalid in this encoding.
    Encoding(String),
    Io(io::Error),
}

/// Iterator over the characters of a reader.
///
/// A byte order mark overrides a [`Charset::Web`] encoding.
pub(super) struct Chars<R> {
    from: R,
    decoding: Decoding,
    bytes: Box<[u8]>,
    /// Range of `bytes` that was not decoded yet.
    start: usize,
    end: usize,
    /// Decoded characters, and the byte offset of the next one.
    text: String,
    offset: usize,
    /// Whether the reader is at its end.
    is_last: bool,
    ended: bool,
    error: Option<DecodeError>,
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
            offset: 0,
            is_last: false,
            ended: false,
            error: None,
        }
    }

    /// Decodes more characters, after all of `text` was returned.
    fn fill(&mut self) -> Result<(), DecodeError> {
        self.text.clear();
        self.offset = 0;
        if self.start == self.end && !self.is_last {
            (self.start, self.end) = (0, 0);
            self.end = loop {
                match self.from.read(&mut self.bytes) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read.map_err(DecodeError::Io)?,
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
                    // The characters before the error are returned first.
                    self.ended = true;
                    self.error = Some(DecodeError::Encoding("ASCII".to_owned()));
                }
                self.start = self.end;
            }
            Decoding::Web(decoder) => {
                // The decoder needs room for at least one character.
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
                        // The characters before the error are returned first.
                        self.ended = true;
                        let name = decoder.encoding().name().to_owned();
                        self.error = Some(DecodeError::Encoding(name));
                    }
                }
            }
        }
        Ok(())
    }
}

impl<R: Read> Iterator for Chars<R> {
    type Item = Result<char, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(c) = self.text[self.offset..].chars().next() {
                self.offset += c.len_utf8();
                return Some(Ok(c));
            }
            if self.ended {
                return self.error.take().map(Err);
            }
            if let Err(error) = self.fill() {
                self.ended = true;
                return Some(Err(error));
            }
        }
    }
}

/// Detects UTF-16 without a byte order mark: every second byte of a western text is 0.
///
/// `start` is the start of the file. Returns the name of the encoding.
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
    let threshold = start.len() * 2 / 5;
    match (even, odd) {
        _ if start.len() < 8
            || start.starts_with(b"\xff\xfe")
            || start.starts_with(b"\xfe\xff") =>
        {
            None
        }
        (0, odd) if odd >= threshold => Some("utf-16le"),
        (even, 0) if even >= threshold => Some("utf-16be"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], encoding: &str) -> Result<String, DecodeError> {
        Chars::new(bytes, Charset::find(encoding).unwrap()).collect()
    }

    #[test]
    fn python_and_dos_names_of_encodings_are_supported() {
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
    fn characters_before_an_invalid_byte_are_read() {
        let mut chars = Chars::new(&b"a\xef\xbf\xbdb\xff"[..], Charset::find("utf-8").unwrap());
        let good: String = chars.by_ref().map_while(Result::ok).collect();
        // `map_while` consumed the error.
        assert_eq!(good, "a\u{fffd}b");
        let large = ["x".repeat(3 * PIECE), "é".repeat(PIECE)].concat();
        assert_eq!(read(large.as_bytes(), "utf-8").unwrap(), large);
        assert!(matches!(
            read(b"ab\xc3", "utf-8"),
            Err(DecodeError::Encoding(_))
        ));
    }

    #[test]
    fn utf16_without_a_mark_is_detected() {
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
