//! Detects the encoding of a file: UTF-8, UTF-16 without a byte order mark, or
//! windows-1252 if the text looks western European.
//!
//! In doubt the encoding is UTF-8, so that the first line in another encoding is an error.

use std::io::Read;

use super::chars::looks_like_utf16;

/// Returns the name of the encoding of a file that begins with `start`.
///
/// `open` opens the whole file. It is only called if the file may be windows-1252.
pub(super) fn detect<R: Read>(
    start: &[u8],
    open: impl FnOnce() -> std::io::Result<R>,
) -> std::io::Result<&'static str> {
    if let Some(utf16) = looks_like_utf16(start) {
        return Ok(utf16);
    }
    // The last character may be incomplete.
    let is_utf8 = match std::str::from_utf8(start) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    if is_utf8 || start.starts_with(b"\xff\xfe") || start.starts_with(b"\xfe\xff") {
        return Ok("utf-8");
    }
    let (text, _) = encoding_rs::WINDOWS_1252.decode_without_bom_handling(start);
    match is_western(&text) && !has_utf8(open()?)? {
        true => Ok("windows-1252"),
        false => Ok("utf-8"),
    }
}

/// Returns whether a file has UTF-8 characters other than ASCII.
///
/// Such a file has two encodings and is not read as windows-1252.
fn has_utf8(mut from: impl Read) -> std::io::Result<bool> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        match read {
            0 => return Ok(false),
            _ if bytes[..read].utf8_chunks().any(|c| !c.valid().is_ascii()) => return Ok(true),
            _ => {}
        }
    }
}

/// Returns whether a text looks western European.
///
/// Such a text has accented letters among plain ones, and no combinations that suggest
/// another code page.
fn is_western(text: &str) -> bool {
    const SIGNS: &str = "“”„‘’‚–—…€£§°«»·©®™\u{a0}¿¡ºª´×½¼²³µ";
    const LETTERS: &str = "äöüßéèêëàâáãåæçñîïíìôóòõøœúùûÄÖÜÉÈÊËÀÂÁÃÅÆÇÑÎÏÍÌÔÓÒÕØŒÚÙÛ";
    let mut others = text.chars().filter(|c| !c.is_ascii());
    if !others.all(|c| SIGNS.contains(c) || LETTERS.contains(c)) {
        return false;
    }
    // Czech in windows-1250 reads as `ø` for `ř`, and as the others for `ě`, `č` and `ů`.
    if text.contains(['ø', 'Ø']) && text.contains(['ì', 'è', 'ù', 'Ì', 'È', 'Ù']) {
        return false;
    }
    // Words in other alphabets have no plain letters. Short words such as `été` may have
    // few in any language, so they do not count.
    let words = text.split(|c: char| !c.is_alphabetic());
    let (mut letters, mut accents, mut long, mut foreign) = (0, 0, 0, 0);
    for word in words.filter(|word| !word.is_ascii()) {
        let all = word.chars().count();
        let own = word.chars().filter(|c| !c.is_ascii()).count();
        letters += all;
        accents += own;
        if all > 3 {
            long += 1;
            foreign += usize::from(own * 2 > all);
        }
    }
    accents * 2 <= letters && foreign * 10 <= long
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detected(bytes: &[u8]) -> &'static str {
        detect(bytes, || Ok(bytes)).unwrap()
    }

    fn encoded(text: &str, encoding: &'static encoding_rs::Encoding) -> Vec<u8> {
        encoding.encode(text).0.into_owned()
    }

    #[test]
    fn western_european_texts_are_detected() {
        use encoding_rs::{KOI8_R, WINDOWS_1250, WINDOWS_1251, WINDOWS_1252, WINDOWS_1253};
        let german = "größe,“rot”\nkleid – blau,5 €\n";
        let french = "une robe d’été,très légère\nà côté,déjà vu\n";
        for text in [german, french, "el niño,mañana\n", "rødgrød,blåbær\n"] {
            assert_eq!(
                detected(&encoded(text, WINDOWS_1252)),
                "windows-1252",
                "{text}"
            );
            assert_eq!(detected(text.as_bytes()), "utf-8");
        }
        for (text, encoding) in [
            ("příliš žluťoučký kůň,úpěl ďábelské ódy\n", WINDOWS_1250),
            ("zażółć gęślą jaźń,tak\n", WINDOWS_1250),
            ("красное платье,платье\n", WINDOWS_1251),
            ("красное платье,платье\n", KOI8_R),
            ("κόκκινο φόρεμα,φόρεμα\n", WINDOWS_1253),
        ] {
            assert_eq!(detected(&encoded(text, encoding)), "utf-8", "{text}");
        }
    }

    #[test]
    fn a_file_with_two_encodings_is_read_as_utf8() {
        let mixed = ["größe,a\n".as_bytes(), b"gr\xf6\xdfe,b\n"].concat();
        assert_eq!(detected(&mixed), "utf-8");
        let far = [b"gr\xf6\xdfe,b\n".repeat(20_000), "größe,a\n".into()].concat();
        assert_eq!(detect(&far[..1000], || Ok(&far[..])).unwrap(), "utf-8");
        let cut = "größe".as_bytes();
        assert_eq!(detected(&cut[..3]), "utf-8");
        let utf16: Vec<u8> = "red,dress\n"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert_eq!(detected(&utf16), "utf-16le");
    }
}
