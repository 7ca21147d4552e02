//! Size limits of images to embed.

use finetuner_engine::image;

/// Maximum size of an image in bytes.
pub(crate) const MAX_IMAGE: usize = 8 << 20;

/// Maximum number of pixels of an image.
const MAX_PIXELS: u64 = 40_000_000;

/// Checks that the bytes are an image within the limits.
pub(crate) fn check_image(bytes: &[u8]) -> Result<(), String> {
    if bytes.len() > MAX_IMAGE {
        let (size, limit) = (bytes.len(), MAX_IMAGE >> 20);
        return Err(format!("an image of {size} bytes; {limit} MiB are allowed"));
    }
    let [width, height] = image::size(bytes).map_err(|e| e.to_string())?;
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        let limit = MAX_PIXELS / 1_000_000;
        return Err(format!(
            "an image of {width}x{height} pixels; {limit} million are allowed: make it smaller"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_with_too_many_pixels_is_refused_by_its_header() {
        // Only the header of a BMP with 16,000 x 4,000 pixels of 1 bit.
        let mut bmp = b"BM".to_vec();
        bmp.extend([0; 8]);
        bmp.extend(62_u32.to_le_bytes());
        bmp.extend(40_u32.to_le_bytes());
        bmp.extend(16_000_i32.to_le_bytes());
        bmp.extend(4_000_i32.to_le_bytes());
        bmp.extend(1_u16.to_le_bytes());
        bmp.extend(1_u16.to_le_bytes());
        bmp.extend([0; 24]);
        bmp.extend([0, 0, 0, 0, 255, 255, 255, 0]);
        let error = check_image(&bmp).unwrap_err();
        assert!(error.contains("40 million are allowed"), "{error}");
    }
}
