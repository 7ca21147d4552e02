//! Names the format of bytes that can not be read as a picture.

/// Names what the bytes are, as far as their first ones say, and what to do.
/// Nothing is said of formats that can be read.
pub(super) fn refuse(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() {
        return Some("it holds no bytes".to_owned());
    }
    let kind = container(bytes).or_else(|| text(bytes))?;
    Some(format!(
        "it is {kind}. JPEG, PNG, WebP, GIF and BMP are read"
    ))
}

/// Formats that are told by their first bytes.
fn container(bytes: &[u8]) -> Option<&'static str> {
    const STARTS: [(&[u8], &str); 12] = [
        (b"%PDF", "a PDF document"),
        (b"II*\0", "a TIFF picture: convert it to PNG"),
        (b"MM\0*", "a TIFF picture: convert it to PNG"),
        (b"8BPS", "a Photoshop file: export it as PNG"),
        (b"\0\0\x01\0", "an icon (ICO): convert it to PNG"),
        (b"\xff\x0a", "a JPEG XL picture: convert it to JPEG"),
        (b"\0\0\0\x0cJXL ", "a JPEG XL picture: convert it to JPEG"),
        (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture: convert it to JPEG"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"\x1a\x45\xdf\xa3", "a video (WebM or Matroska)"),
        (
            b"version https://git-lfs.github.com/spec/",
            "a git-lfs pointer, not the picture: run `git lfs pull` where it comes from",
        ),
    ];
    if let Some((_, kind)) = STARTS.iter().find(|(start, _)| bytes.starts_with(start)) {
        return Some(kind);
    }
    // ISO base media: the size of a box, `ftyp`, and brands of four letters.
    if bytes.get(4..8)? != b"ftyp" {
        return None;
    }
    let size = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
    let head = &bytes[8..size.clamp(8, bytes.len().min(256))];
    let has = |brands: &[&[u8; 4]]| head.as_chunks::<4>().0.iter().any(|b| brands.contains(&b));
    // `mif1` alone says only that it is some picture of this family.
    Some(if has(&[b"avif", b"avis"]) {
        "an AVIF picture: convert it to JPEG or PNG"
    } else if has(&[b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis"]) {
        "a HEIC picture, as phones take them: convert it to JPEG"
    } else if has(&[b"mif1", b"msf1"]) {
        "a HEIF picture: convert it to JPEG"
    } else {
        "a video (MP4 or QuickTime)"
    })
}

/// Formats that are texts.
fn text(bytes: &[u8]) -> Option<&'static str> {
    let start = &bytes[..bytes.len().min(1024)];
    // A character may be cut at the end of what is looked at.
    let start = match std::str::from_utf8(start) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&start[..e.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    if start.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    let start = start.trim_start_matches('\u{feff}').trim_start();
    let lower = start.to_ascii_lowercase();
    Some(if lower.contains("<svg") && start.starts_with('<') {
        "an SVG drawing: render it as PNG"
    } else if lower.starts_with("<!doctype html") || lower.starts_with("<html") {
        "a web page (HTML): the address or the file is not the picture's own"
    } else if start.starts_with('<') {
        "an XML or HTML text: the address or the file is not the picture's own"
    } else if start.starts_with(['{', '[']) {
        "a JSON text: the address or the file is not the picture's own"
    } else {
        "a text"
    })
}

/// Whether a JPEG reaches its end marker. Decoders fill what is missing with
/// grey and say nothing; Pillow refuses such files.
pub(super) fn is_whole_jpeg(bytes: &[u8]) -> bool {
    /// Start of a scan, whose data has no length.
    const SCAN: u8 = 0xda;
    const END: u8 = 0xd9;
    let mut at = 2;
    loop {
        // Anything up to the next marker is data: `FF 00` stands for a byte
        // `FF`, and restart markers stand between parts of a scan.
        let Some(found) = bytes.get(at..).and_then(|rest| {
            rest.windows(2)
                .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xd0..=0xd7 | 0xff))
        }) else {
            return false;
        };
        let marker = bytes[at + found + 1];
        at += found + 2;
        match marker {
            END => return true,
            SCAN => {}
            // Markers without a length.
            0x01 | 0xd8 => {}
            _ => {
                let Some(length) = bytes.get(at..at + 2) else {
                    return false;
                };
                at += usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_pictures_are_named() {
        let ftyp = |brands: &str| {
            let size = (8 + brands.len()) as u8;
            [&[0, 0, 0, size], &b"ftyp"[..], brands.as_bytes(), b"rest"].concat()
        };
        for (bytes, name) in [
            (Vec::new(), "no bytes"),
            (ftyp("heic\0\0\0\0mif1heic"), "HEIC"),
            (ftyp("mif1\0\0\0\0mif1avif"), "AVIF"),
            (ftyp("mif1\0\0\0\0miaf"), "HEIF"),
            (ftyp("isom\0\0\0\0mp42"), "video"),
            (b"%PDF-1.7 more".to_vec(), "PDF"),
            (b"<!DOCTYPE html><p>404".to_vec(), "web page"),
            (b"\n <HTML>".to_vec(), "web page"),
            (b"<?xml version='1.0'?>\n<svg/>".to_vec(), "SVG"),
            (b"\xef\xbb\xbf<svg xmlns=''>".to_vec(), "SVG"),
            (b"{\"error\": 404}".to_vec(), "JSON"),
            (b"not found".to_vec(), "a text"),
            (b"MM\0*rest".to_vec(), "TIFF"),
            (
                b"version https://git-lfs.github.com/spec/v1".to_vec(),
                "git lfs pull",
            ),
        ] {
            let found = refuse(&bytes).unwrap_or_default();
            assert!(found.contains(name), "{name}: {found}");
        }
        for bytes in [
            &[0xff, 0xd8, 0xff, 0xe0][..],
            b"\x89PNG\r\n\x1a\n",
            &[1, 2, 3],
        ] {
            assert_eq!(refuse(bytes), None);
        }
        for length in 0..40 {
            // No length of a head is a panic.
            refuse(&ftyp("mif1\0\0\0\0mif1avif")[..length.min(28)]);
        }
    }
}
