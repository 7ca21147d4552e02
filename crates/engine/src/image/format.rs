//! Identifies files that are not supported images.

/// Returns what the bytes are, and the remedy.
///
/// Returns `None` for supported and for unknown formats.
pub(super) fn unsupported_format(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() {
        return Some("it holds no bytes".to_owned());
    }
    let kind = container(bytes).or_else(|| text(bytes))?;
    Some(format!(
        "it is {kind}. Supported formats are JPEG, PNG, WebP, GIF and BMP"
    ))
}

/// Identifies binary formats by their first bytes.
fn container(bytes: &[u8]) -> Option<&'static str> {
    const STARTS: [(&[u8], &str); 12] = [
        (b"%PDF", "a PDF document"),
        (b"II*\0", "a TIFF image: convert it to PNG"),
        (b"MM\0*", "a TIFF image: convert it to PNG"),
        (b"8BPS", "a Photoshop file: export it as PNG"),
        (b"\0\0\x01\0", "an icon (ICO): convert it to PNG"),
        (b"\xff\x0a", "a JPEG XL image: convert it to JPEG"),
        (b"\0\0\0\x0cJXL ", "a JPEG XL image: convert it to JPEG"),
        (b"\0\0\0\x0cjP  ", "a JPEG 2000 image: convert it to JPEG"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"\x1a\x45\xdf\xa3", "a video (WebM or Matroska)"),
        (
            b"version https://git-lfs.github.com/spec/",
            "a git-lfs pointer, not the image: run `git lfs pull` in its repository",
        ),
    ];
    if let Some((_, kind)) = STARTS.iter().find(|(start, _)| bytes.starts_with(start)) {
        return Some(kind);
    }
    // ISO base media: box size, `ftyp`, and brands of four letters.
    if bytes.get(4..8)? != b"ftyp" {
        return None;
    }
    let size = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
    let head = &bytes[8..size.clamp(8, bytes.len().min(256))];
    let has = |brands: &[&[u8; 4]]| head.as_chunks::<4>().0.iter().any(|b| brands.contains(&b));
    // `mif1` is the generic brand of the HEIF family.
    Some(if has(&[b"avif", b"avis"]) {
        "an AVIF image: convert it to JPEG or PNG"
    } else if has(&[b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis"]) {
        "a HEIC image, as phones take them: convert it to JPEG"
    } else if has(&[b"mif1", b"msf1"]) {
        "a HEIF image: convert it to JPEG"
    } else {
        "a video (MP4 or QuickTime)"
    })
}

/// Identifies text formats.
fn text(bytes: &[u8]) -> Option<&'static str> {
    let start = &bytes[..bytes.len().min(1024)];
    // The cut may split a character.
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
        "a web page (HTML): the address or file is not that of the image"
    } else if start.starts_with('<') {
        "an XML or HTML text: the address or file is not that of the image"
    } else if start.starts_with(['{', '[']) {
        "a JSON text: the address or file is not that of the image"
    } else {
        "a text"
    })
}

/// Returns whether a JPEG has its end marker.
///
/// Decoders silently fill missing parts with grey; Pillow rejects such files.
pub(super) fn is_whole_jpeg(bytes: &[u8]) -> bool {
    /// Start of a scan, whose data has no length field.
    const SCAN: u8 = 0xda;
    const END: u8 = 0xd9;
    let mut at = 2;
    loop {
        // Skip data up to the next marker. `FF 00` is an escaped `FF`, and restart
        // markers separate parts of a scan.
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
            // Markers without a length field.
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
    fn unsupported_files_are_identified() {
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
            let found = unsupported_format(&bytes).unwrap_or_default();
            assert!(found.contains(name), "{name}: {found}");
        }
        for bytes in [
            &[0xff, 0xd8, 0xff, 0xe0][..],
            b"\x89PNG\r\n\x1a\n",
            &[1, 2, 3],
        ] {
            assert_eq!(unsupported_format(bytes), None);
        }
        for length in 0..40 {
            // A truncated header never panics.
            unsupported_format(&ftyp("mif1\0\0\0\0mif1avif")[..length.min(28)]);
        }
    }
}
