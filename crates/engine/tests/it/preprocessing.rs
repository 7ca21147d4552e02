//! Compares the image processor with `transformers` and Pillow
//! (`fixtures/make_preprocessors.py`): classes, their defaults, and all fields.

use finetuner_engine::image::{self, ImageProcessor, ProcessorClass};
use serde_json::{Value, json};

use crate::support::{fixture, json, tensors};

fn parse(config: &Value) -> finetuner_engine::Result<ImageProcessor> {
    ImageProcessor::parse(config, ProcessorClass::Clip, None)
}

/// A processor, with its output for an image of `fixtures`.
fn pixels(processor: &ImageProcessor, image: &str) -> finetuner_engine::Result<Vec<f32>> {
    let image = std::fs::read(fixture(image)).unwrap();
    let mut found = vec![0.0; processor.values()];
    processor.process(&image, None, &mut found)?;
    Ok(found)
}

fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    off.fold(0.0, f32::max)
}

#[test]
fn every_processor_equals_that_of_transformers() {
    let configs = json("preprocessors/configs.json");
    let expected = tensors("preprocessors/values.safetensors");
    let mut compared = 0;
    for (name, config) in configs.as_object().unwrap() {
        let processor = parse(config).unwrap();
        // The saved settings are equivalent.
        let saved = parse(&processor.to_json()).unwrap();
        for image in ["wide.png", "tall.png"] {
            let (shape, expected) = &expected[&format!("{name}/{image}")];
            assert_eq!(
                shape[1..],
                processor.sides().map(|side| side as usize),
                "{name}"
            );
            // One of 256 levels is at least 0.004.
            let largest = expected.iter().fold(1.0f32, |a, b| a.max(b.abs()));
            for processor in [&processor, &saved] {
                let found = pixels(processor, &format!("pictures/{image}")).unwrap();
                let off = worst(&found, expected) / largest;
                assert!(off < 1e-6, "{name} {image}: {off}");
            }
            compared += 1;
        }
    }
    assert_eq!(compared, expected.len());
}

#[test]
fn use_square_size_selects_the_size_of_the_class() {
    let crop = json!({"height": 8, "width": 8});
    let old = json!({"use_square_size": true, "size": {"shortest_edge": 32}, "crop_size": crop});
    let new = json!({"size": {"height": 224, "width": 224}, "crop_size": crop});
    let [old, new] = [old, new].map(|config| parse(&config).unwrap());
    let image = "pictures/wide.png";
    assert_eq!(pixels(&old, image).unwrap(), pixels(&new, image).unwrap());
}

#[test]
fn a_null_value_is_that_of_the_class() {
    let config = json!({
        "size": null, "crop_size": null, "resample": null, "rescale_factor": null,
        "image_mean": null, "image_std": null,
    });
    let found = parse(&config).unwrap();
    assert_eq!(found, parse(&json!({})).unwrap());
}

#[test]
fn images_are_rotated_upright_in_every_format() {
    let expected = tensors("preprocessors/upright.safetensors");
    let config =
        json!({"image_processor_type": "ViTImageProcessor", "size": [6, 8], "resample": 4});
    let processor = parse(&config).unwrap();
    assert_eq!(expected.len(), 12);
    for (name, (_, expected)) in expected {
        let found = pixels(&processor, &format!("upright/{name}")).unwrap();
        // JPEG decoders differ by 1 of 255.
        let limit = if name.ends_with("jpg") {
            2.0 / 127.5
        } else {
            1e-6
        };
        let off = worst(&found, &expected);
        assert!(off < limit, "{name}: {off}");
    }
}

#[test]
fn unsupported_steps_are_rejected_by_field() {
    let clip = |field: &str, value: Value| {
        let mut config = json!({"image_processor_type": "CLIPImageProcessor"});
        config[field] = value;
        config
    };
    for (config, wanted) in [
        (
            clip("image_processor_type", json!("SamImageProcessor")),
            "`image_processor_type` is \"SamImageProcessor\"",
        ),
        (clip("resample", json!(6)), "`resample` is 6"),
        (
            clip("resample", json!("bicubic")),
            "`resample` is \"bicubic\"",
        ),
        (
            clip("size", json!({"shortest_edge": 224, "longest_edge": 300})),
            "`longest_edge`",
        ),
        (
            clip("size", json!({"height": 224})),
            "`size` is {\"height\":224}",
        ),
        (clip("size", json!(0)), "1 to 4096"),
        (clip("size", json!(-3)), "1 to 4096"),
        (clip("size", json!(5000)), "1 to 4096"),
        (
            clip("crop_size", json!({"shortest_edge": 4})),
            "`crop_size`",
        ),
        (clip("do_resize", json!("yes")), "`do_resize` is \"yes\""),
        (
            clip("do_flip_channel_order", json!(true)),
            "`do_flip_channel_order`",
        ),
        (
            clip("image_std", json!([1, 0, 1])),
            "`image_std` holds a zero",
        ),
        (
            clip("image_mean", json!([0.5, 0.5])),
            "`image_mean` is [0.5,0.5]",
        ),
        (clip("rescale_factor", json!(0)), "`rescale_factor`"),
        (
            clip("rescale_factor", json!("1/255")),
            "`rescale_factor` is \"1/255\"",
        ),
        (json!([]), "it is not an object"),
        (
            json!({"image_processor_type": "ConvNextImageProcessor", "size": {"height": 3, "width": 3}}),
            "`shortest_edge`",
        ),
        (
            json!({"image_processor_type": "ConvNextImageProcessor", "size": 3, "crop_pct": 0}),
            "`crop_pct`",
        ),
        (
            json!({"image_processor_type": "ViTImageProcessor", "do_resize": false}),
            "`do_resize` is false",
        ),
    ] {
        let error = parse(&config).unwrap_err().to_string();
        assert!(error.contains(wanted), "{config}: {error}");
    }
    let fits =
        |model| ImageProcessor::parse(&clip("size", json!(32)), ProcessorClass::Clip, Some(model));
    let error = fits([32, 32]).unwrap_err().to_string();
    assert!(
        error.contains("images are resized to 224 pixels, but the model takes 32"),
        "{error}"
    );
    // Settings without effect are accepted.
    for field in [
        "do_convert_rgb",
        "do_pad",
        "do_reduce_labels",
        "use_square_size",
    ] {
        parse(&clip(field, json!(true))).unwrap();
    }
}

#[test]
fn images_of_a_size_that_the_model_can_not_take_are_rejected() {
    let config = json!({"do_center_crop": false, "size": {"shortest_edge": 24}});
    let processor = ImageProcessor::parse(&config, ProcessorClass::Clip, Some([24, 24])).unwrap();
    assert!(pixels(&processor, "pictures/exact.png").is_ok());
    let error = pixels(&processor, "pictures/wide.png")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("38x24 pixels, but the model takes 24x24"),
        "{error}"
    );
}

#[test]
fn truncated_jpegs_are_rejected_and_trailing_bytes_ignored() {
    let whole = std::fs::read(fixture("pictures/photo.jpg")).unwrap();
    image::check(&whole).unwrap();
    let behind = [&whole[..], b"more"].concat();
    image::check(&behind).unwrap();
    image::check_head(&behind).unwrap();
    for length in [whole.len() - 1, whole.len() / 2, whole.len() - 40] {
        for error in [
            image::check(&whole[..length]),
            image::check_head(&whole[..length]),
        ] {
            let error = error.unwrap_err().to_string();
            assert!(error.contains("cut short"), "{length}: {error}");
        }
    }
    // No truncation causes a panic, in any format.
    for name in ["photo.jpg", "wide.png", "palette.png"] {
        let whole = std::fs::read(fixture("pictures").join(name)).unwrap();
        for length in 0..whole.len() * 3 / 4 {
            assert!(image::check(&whole[..length]).is_err(), "{name} {length}");
        }
        let half = image::check(&whole[..whole.len() / 2]).unwrap_err();
        assert!(half.to_string().contains("cut short"), "{name}: {half}");
    }
}

/// Returns the header of a BMP with 24 bits per pixel.
fn head_of_bmp(width: u32, height: u32) -> Vec<u8> {
    let mut head = b"BM".to_vec();
    let fields = [54, 0, 54, 40, width, height, 1 | 24 << 16, 0, 0, 0, 0, 0, 0];
    head.extend(fields.iter().flat_map(|field: &u32| field.to_le_bytes()));
    head
}

#[test]
fn oversized_images_are_rejected_with_size_and_limit() {
    for (width, height, limit) in [
        (60_000, 60_000, "16384 pixels per side"),
        (1, 16_385, "16384 pixels per side"),
        (
            16_000,
            16_000,
            "takes 732 MiB when decoded; the limit is 256 MiB",
        ),
    ] {
        let head = head_of_bmp(width, height);
        for error in [image::check(&head), image::check_head(&head)] {
            let error = error.unwrap_err().to_string();
            assert!(
                error.contains(&format!("{width}x{height}")) && error.contains(limit),
                "{error}"
            );
        }
    }
    image::check_head(&head_of_bmp(16_384, 5_000)).unwrap();
}
