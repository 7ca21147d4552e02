//! Decodes image files.
//!
//! The format is detected from the content. Images are rotated by their Exif
//! orientation, and transparent ones are drawn on white, so that the model sees what
//! people see.

use std::io::Cursor;

use image::{
    DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage, metadata::Orientation,
};

use super::format;
use crate::{Error, Result};

/// Maximum memory in bytes for decoding an image.
pub(super) const MAX_DECODED_BYTES: u64 = 256 << 20;
/// Maximum width and height in pixels.
const MAX_SIDE: u32 = 16_384;

/// Checks that an image can be decoded completely.
///
/// # Errors
/// [`Error::Data`] if it can't, or if it is too large.
pub fn check(encoded: &[u8]) -> Result<()> {
    decode(encoded).map(drop)
}

/// Checks the header of an image, and the end of a JPEG.
///
/// # Errors
/// [`Error::Data`] if the format is unknown, the size exceeds the limits or a JPEG is
/// truncated.
pub fn check_head(encoded: &[u8]) -> Result<()> {
    decoder(encoded).map(drop)
}

/// Returns width and height of an image from its header.
///
/// # Errors
/// As [`check_head`].
pub fn size(encoded: &[u8]) -> Result<[u32; 2]> {
    let (width, height) = decoder(encoded)?.dimensions();
    Ok([width, height])
}

/// Decodes an image to RGB, upright, and on white if it is transparent.
///
/// `transformers` has done the same since version 5.
pub(super) fn decode(encoded: &[u8]) -> Result<RgbImage> {
    let bad = |e: image::ImageError| unreadable(encoded, &e);
    let mut decoder = decoder(encoded)?;
    let mut limits = limits();
    limits.reserve(decoder.total_bytes()).map_err(bad)?;
    decoder.set_limits(limits).map_err(bad)?;
    let orientation = orientation(&mut decoder);
    let mut image = DynamicImage::from_decoder(decoder).map_err(bad)?;
    image.apply_orientation(orientation);
    if !image.color().has_alpha() {
        return Ok(image.into_rgb8());
    }
    let image = image.into_rgba8();
    let mut opaque = RgbImage::new(image.width(), image.height());
    for (to, from) in opaque.pixels_mut().zip(image.pixels()) {
        let alpha = u32::from(from[3]);
        let on_white = |channel: u8| {
            let sum = u32::from(channel) * alpha + 255 * (255 - alpha);
            ((sum + 127) / 255) as u8
        };
        to.0 = [on_white(from[0]), on_white(from[1]), on_white(from[2])];
    }
    Ok(opaque)
}

/// Reads the orientation from Exif, or else from XMP.
///
/// This equals Pillow's `exif_transpose`. Invalid metadata is ignored.
fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    let exif = decoder.exif_metadata().ok().flatten();
    let found = exif.and_then(|exif| Orientation::from_exif_chunk(&exif));
    let found = found.or_else(|| {
        let xmp = decoder.xmp_metadata().ok().flatten()?;
        let xmp = String::from_utf8_lossy(&xmp);
        let (_, value) = xmp.split_once("tiff:Orientation")?;
        let value = value.strip_prefix("=\"").or(value.strip_prefix('>'))?;
        Orientation::from_exif(value.chars().next()?.to_digit(10)? as u8)
    });
    found.unwrap_or(Orientation::NoTransforms)
}

/// Returns the memory limit for decoders.
///
/// [`decoder`] checks the size itself, with errors that name the limit.
fn limits() -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    limits
}

/// Reads the header of an image and checks its size.
fn decoder(encoded: &[u8]) -> Result<impl ImageDecoder> {
    let mut reader = ImageReader::new(Cursor::new(encoded))
        .with_guessed_format()
        .map_err(|e| unreadable(encoded, &e))?;
    if reader.format() == Some(ImageFormat::Jpeg) && !format::is_whole_jpeg(encoded) {
        return Err(unreadable(
            encoded,
            &"the JPEG is cut short: its end is missing",
        ));
    }
    reader.limits(limits());
    let decoder = reader.into_decoder().map_err(|e| unreadable(encoded, &e))?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(unreadable(encoded, &"it has no pixels"));
    }
    let too_large = |reason: String| {
        Err(Error::data(format!(
            "an image of {width}x{height} pixels is too large: {reason}. Make it smaller"
        )))
    };
    if width > MAX_SIDE || height > MAX_SIDE {
        return too_large(format!("the limit is {MAX_SIDE} pixels per side"));
    }
    let bytes = decoder.total_bytes();
    if bytes > MAX_DECODED_BYTES {
        return too_large(format!(
            "it takes {} MiB when decoded; the limit is {} MiB",
            bytes >> 20,
            MAX_DECODED_BYTES >> 20
        ));
    }
    Ok(decoder)
}

/// Returns an error with the actual format of the bytes, if it is known.
///
/// Otherwise, the error has the decoder's message.
fn unreadable(encoded: &[u8], reason: &dyn std::fmt::Display) -> Error {
    let reason = format::unsupported_format(encoded).unwrap_or_else(|| {
        let said = reason.to_string();
        // Decoders report truncated files in different words.
        let ends = ["unexpected end of file", "failed to fill whole buffer"];
        let is_cut = ends.iter().any(|end| said.to_lowercase().contains(end));
        match is_cut {
            true => "the file is cut short: its end is missing".to_owned(),
            false => said,
        }
    });
    Error::data(format!("not a readable image: {reason}"))
}
