//! Reads the images of documents.

use std::{borrow::Cow, path::Path, sync::Arc};

use finetuner_protocol::{Content, Document, NdArray, text::start_of};

use super::{each::Fault, item::Item, stored::ImageFile};
use crate::{
    Error, Result,
    image::{IMAGENET_MEAN, IMAGENET_STD},
};

/// Options for reading the images of documents.
#[derive(Clone, Debug)]
pub enum Images {
    /// Store them, to embed them later.
    Kept(Arc<ImageFile>),
    /// Check and discard them.
    Checked,
}

impl Images {
    /// Stores images in a temporary file in this folder.
    ///
    /// # Errors
    /// [`Error::Io`] if the file can't be created.
    pub fn kept_in(folder: &Path) -> Result<Self> {
        Ok(Self::Kept(Arc::new(ImageFile::new_in(folder)?)))
    }

    /// Checks and stores the image of the document at index `i` of a data set.
    pub(super) fn take(&self, i: usize, document: &Document) -> Result<Item, Fault> {
        let bytes = encoded(document)?;
        check(i, &bytes)?;
        Ok(self.item(&bytes)?)
    }

    fn item(&self, bytes: &[u8]) -> Result<Item> {
        Ok(match self {
            Self::Kept(file) => Item::Stored(file.keep(bytes)?),
            Self::Checked => Item::Image(Arc::new([])),
        })
    }
}

/// Number of images that are decoded completely to check them.
///
/// Only the header of further images is checked. If one of them is damaged after its
/// header, training finds it later.
const DECODED: usize = 20_000;

/// Checks the image at index `i` of a data set.
fn check(i: usize, bytes: &[u8]) -> Result<(), String> {
    let check = if i < DECODED {
        crate::image::check
    } else {
        crate::image::check_head
    };
    check(bytes).map_err(|e| match e {
        Error::Data(reason) => reason,
        other => other.to_string(),
    })
}

/// Returns whether a document holds something that should be an image.
pub(super) fn holds_one(document: &Document) -> bool {
    match &document.content {
        Some(Content::Blob(_) | Content::Tensor(_)) => true,
        Some(_) => false,
        None => document.uri.starts_with("data:"),
    }
}

/// Returns the encoded image of a document, or why it has none.
fn encoded(document: &Document) -> Result<Cow<'_, [u8]>, String> {
    match &document.content {
        Some(Content::Blob(bytes)) => Ok(bytes.into()),
        Some(Content::Tensor(array)) => from_tensor(array).map(Cow::Owned),
        _ if document.uri.is_empty() => Err("it holds no image".to_owned()),
        _ if document.uri.starts_with("data:") => from_data_uri(&document.uri).map(Cow::Owned),
        _ => Err(format!(
            "it names `{}` and holds no bytes: load images into blobs before pushing",
            start_of(&document.uri)
        )),
    }
}

/// Decodes a `data:` URI, in base64 or percent encoding.
fn from_data_uri(uri: &str) -> Result<Vec<u8>, String> {
    let bad = |reason: &dyn std::fmt::Debug| {
        format!(
            "its uri `{}` is not a valid data URI: {reason:?}",
            start_of(uri)
        )
    };
    let parsed = data_url::DataUrl::process(uri).map_err(|e| bad(&e))?;
    let (bytes, _) = parsed.decode_to_vec().map_err(|e| bad(&e))?;
    if bytes.is_empty() {
        return Err("its data URI holds no bytes".to_owned());
    }
    Ok(bytes)
}

/// Encodes a tensor as PNG.
///
/// Shapes are `[height, width, 3]` or `[3, height, width]` for colour, `[height,
/// width]` or `[height, width, 1]` for grey. Values are integers from 0 to 255, or such
/// values normalised with ImageNet's mean and standard deviation.
fn from_tensor(array: &NdArray) -> Result<Vec<u8>, String> {
    let NdArray::Dense { shape, .. } = array else {
        return Err("its tensor is sparse; an image needs a dense one".to_owned());
    };
    let (height, width, channels, channels_last) = match **shape {
        [height, width] => (height, width, 1, true),
        [height, width, channels @ (1 | 3)] => (height, width, channels, true),
        [3, height, width] => (height, width, 3, false),
        _ => {
            return Err(format!(
                "its tensor has the shape {shape:?}; an image is [height, width, 3], or \
                 [3, height, width]"
            ));
        }
    };
    let values = array.to_f32().ok_or("its tensor does not hold numbers")?;
    let wanted = shape
        .iter()
        .try_fold(1usize, |n, side| n.checked_mul(*side as usize));
    if values.is_empty() || wanted != Some(values.len()) {
        return Err(format!(
            "its tensor has {} values, which can't be an image of the shape {shape:?}",
            values.len()
        ));
    }
    let (places, channels) = (height as usize * width as usize, channels as usize);
    // Index by channels last.
    let at = |i: usize| {
        let (place, channel) = (i / channels, i % channels);
        if channels_last {
            values[i]
        } else {
            values[channel * places + place]
        }
    };
    let whole = |value: f32| (0.0..=255.0).contains(&value) && value.fract() == 0.0;
    let pixels: Option<Vec<u8>> = match values.iter().find(|value| !whole(**value)) {
        None => Some((0..places * channels).map(|i| at(i) as u8).collect()),
        Some(_) if channels == 3 => {
            let known = (0..places * channels).map(|i| denormalised(at(i), i % channels));
            known.collect()
        }
        Some(_) => None,
    };
    let pixels = pixels.ok_or_else(|| {
        let odd = values.iter().find(|value| !whole(**value));
        format!(
            "its tensor holds {}; the values of an image must be whole numbers from 0 to 255, or such \
             numbers in 3 channels, normalised by `set_image_tensor_normalization` with its \
             default mean and deviation. Give the image as a blob, or as a tensor before other \
             scaling or normalisation",
            odd.copied().unwrap_or_default()
        )
    })?;
    let color = match channels {
        1 => image::ExtendedColorType::L8,
        _ => image::ExtendedColorType::Rgb8,
    };
    let mut png = Vec::new();
    image::ImageEncoder::write_image(
        image::codecs::png::PngEncoder::new(&mut png),
        &pixels,
        width,
        height,
        color,
    )
    .map_err(|e| format!("its tensor can't be encoded as an image: {e}"))?;
    Ok(png)
}

/// Returns the pixel that ImageNet's moments normalise to `value`.
///
/// Returns `None` if there is none: the tensor was normalised in another way.
fn denormalised(value: f32, channel: usize) -> Option<u8> {
    /// Well above the rounding error of single precision.
    const TOLERANCE: f32 = 0.02;
    let pixel = (value * IMAGENET_STD[channel] + IMAGENET_MEAN[channel]) * 255.0;
    let whole = pixel.round();
    let near = (pixel - whole).abs() < TOLERANCE && (0.0..=255.0).contains(&whole);
    near.then_some(whole as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_images_can_be_read_and_their_file_is_deleted_with_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let files = || std::fs::read_dir(folder.path()).unwrap().count();
        let images = Images::kept_in(folder.path()).unwrap();
        let stored: Vec<Item> = [&b"first"[..], b"", b"third one"]
            .iter()
            .map(|bytes| images.item(bytes).unwrap())
            .collect();
        drop(images);
        let read = |item: &Item| match item {
            Item::Stored(stored) => stored.read().unwrap(),
            other => panic!("{other:?}"),
        };
        // In any order.
        assert_eq!(read(&stored[2]), b"third one");
        assert_eq!(read(&stored[0]), b"first");
        assert_eq!(read(&stored[1]), b"");
        assert_ne!(stored[0], stored[2]);
        assert_eq!(files(), 1);
        drop(stored);
        assert_eq!(files(), 0);
    }

    #[test]
    fn tensors_may_have_channels_first_or_last() {
        // Two pixels of one row: red, and grey.
        let last = Document::tensor(&[255.0, 0.0, 0.0, 7.0, 7.0, 7.0], &[1, 2, 3]);
        let first = Document::tensor(&[255.0, 7.0, 0.0, 7.0, 0.0, 7.0], &[3, 1, 2]);
        for document in [last, first] {
            let png = encoded(&document).unwrap();
            let decoded = image::load_from_memory(&png).unwrap().to_rgb8();
            assert_eq!(decoded.dimensions(), (2, 1));
            assert_eq!(decoded.as_raw(), &[255, 0, 0, 7, 7, 7]);
        }
        let grey = encoded(&Document::tensor(&[1.0, 2.0], &[2, 1]))
            .unwrap()
            .to_vec();
        let decoded = image::load_from_memory(&grey).unwrap().to_rgb8();
        assert_eq!(decoded.as_raw(), &[1, 1, 1, 2, 2, 2]);
    }

    #[test]
    fn data_uris_and_normalised_tensors_of_docarray_give_the_original_image() {
        // Written by `tests/fixtures/make_picture_forms.py`.
        let forms = include_str!("../../tests/fixtures/picture_forms.json");
        let forms: serde_json::Value = serde_json::from_str(forms).unwrap();
        let pixels: Vec<u8> = serde_json::from_value(forms["pixels"].clone()).unwrap();
        let uri = |name: &str| {
            let mut document = Document::new();
            document.uri = forms[name].as_str().unwrap().to_owned();
            assert!(holds_one(&document));
            document
        };
        let tensor = |name: &str| {
            let values = serde_json::from_value::<Vec<f32>>(forms[name]["values"].clone());
            let shape = serde_json::from_value::<Vec<u32>>(forms[name]["shape"].clone());
            Document::tensor(&values.unwrap(), &shape.unwrap())
        };
        let forms = [
            uri("percent"),
            uri("base64"),
            tensor("last"),
            tensor("first"),
        ];
        for document in forms {
            let decoded = image::load_from_memory(&encoded(&document).unwrap()).unwrap();
            assert_eq!(decoded.to_rgb8().dimensions(), (4, 3));
            assert_eq!(decoded.to_rgb8().as_raw(), &pixels);
        }
        // Normalised with other moments, such as OpenAI's.
        let other = tensor_of(&pixels, [0.481, 0.458, 0.408], [0.269, 0.261, 0.276]);
        let found = encoded(&other).unwrap_err();
        assert!(
            found.contains("`set_image_tensor_normalization`"),
            "{found}"
        );
    }

    fn tensor_of(pixels: &[u8], mean: [f32; 3], std: [f32; 3]) -> Document {
        let values = pixels
            .iter()
            .enumerate()
            .map(|(i, pixel)| (f32::from(*pixel) / 255.0 - mean[i % 3]) / std[i % 3]);
        Document::tensor(&values.collect::<Vec<_>>(), &[3, 4, 3])
    }

    #[test]
    fn tensors_that_hold_no_image_are_rejected_with_the_reason() {
        for (values, shape, wanted) in [
            (&[1.0, 2.0][..], &[2][..], "has the shape [2]"),
            (&[1.0; 8], &[1, 2, 4], "has the shape [1, 2, 4]"),
            (&[0.5; 3], &[1, 1, 3], "holds 0.5"),
            (&[256.0; 3], &[1, 1, 3], "holds 256"),
            (&[f32::NAN; 3], &[1, 1, 3], "holds NaN"),
            (
                &[1.0; 3],
                &[2, 1, 3],
                "has 3 values, which can't be an image",
            ),
            (&[1.0; 3], &[u32::MAX, u32::MAX, 3], "has 3 values"),
            (&[], &[0, 4, 3], "has 0 values"),
        ] {
            let found = encoded(&Document::tensor(values, shape)).unwrap_err();
            assert!(found.contains(wanted), "{wanted} is missing in: {found}");
        }
    }
}
