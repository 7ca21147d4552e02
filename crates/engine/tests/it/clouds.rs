//! Point clouds: compares PointNet++ with PyTorch (`fixtures/make_pointnet.py`), and
//! executes whole runs on shapes.

use std::path::Path;

use finetuner_engine::{
    Error,
    cloud::CloudBatch,
    infer::Encoder,
    models::{Input, Model, ModelConfig, ModelKind, ModelSetup},
    params::{FloatFormat, write_safetensors},
};
use finetuner_protocol::{Document, DocumentArray};
use serde_json::{Value, json};

use crate::{
    backbones::check_gradients,
    runs::{Data, config, run, run_from},
    support::{Tensors, flat, json as fixture_json, model, relative_error, tensors},
};

type Point = [f32; 3];

const NETWORKS: [&str; 3] = ["pointnet-ssg", "pointnet-nearest", "pointnet-msg"];

fn load(name: &str) -> (Model, Tensors) {
    let weights = tensors(&format!("backbones/{name}.safetensors"));
    let config = fixture_json(&format!("backbones/{name}.json"));
    let values = tensors(&format!("backbones/{name}-values.safetensors"));
    (model(&config, weights, ModelSetup::default()), values)
}

/// Returns the clouds of a fixture, `[clouds, points, 3]`.
fn clouds(values: &Tensors) -> Vec<Vec<Point>> {
    let (shape, points) = &values["points"];
    let clouds = points.chunks(shape[1] * 3);
    clouds.map(|cloud| cloud.as_chunks().0.to_vec()).collect()
}

fn input(clouds: &[Vec<Point>]) -> Input {
    Input::PointClouds(CloudBatch {
        points: clouds.concat(),
        lengths: clouds.iter().map(Vec::len).collect(),
    })
}

#[test]
fn cloud_embeddings_equal_those_of_pytorch() {
    for name in NETWORKS {
        let (model, values) = load(name);
        let clouds = clouds(&values);
        let encode = |clouds: &[Vec<Point>]| {
            let found = model.encode(&model.inference(), &input(clouds)).unwrap();
            flat(&found)
        };
        let error = relative_error(&encode(&clouds), &values["embedding"].1);
        assert!(error < 1e-5, "{name}: {error}");
        // A cloud with fewer points than centres, alone and together with
        // others.
        let short = clouds[0][..5].to_vec();
        let alone = encode(std::slice::from_ref(&short));
        let error = relative_error(&alone, &values["short"].1);
        assert!(error < 1e-5, "{name}, a short cloud: {error}");
        let beside = encode(&[clouds[1].clone(), short]);
        let error = relative_error(&beside[alone.len()..], &alone);
        assert!(
            error < 1e-5,
            "{name}, a short cloud beside another: {error}"
        );
    }
}

#[test]
fn gradients_of_a_pointnet_equal_those_of_pytorch() {
    // The normalisation cancels the bias before it.
    let biases = |list: &str, scales: &[&str]| -> Vec<String> {
        let names = scales
            .iter()
            .flat_map(|scale| (0..2).map(move |layer| format!("{list}.{scale}{layer}.bias")));
        names.collect()
    };
    let noise = [
        biases("mlp_convs", &[""]),
        biases("conv_blocks", &["0.", "1."]),
    ]
    .concat();
    let noise: Vec<&str> = noise.iter().map(String::as_str).collect();
    for name in NETWORKS {
        let (model, values) = load(name);
        let batch = input(&clouds(&values));
        let trained = model.encode(&model.training(), &batch).unwrap();
        let error = relative_error(&flat(&trained), &values["trained"].1);
        assert!(error < 1e-4, "{name}: {error}");
        let mut compared = 0;
        for param in model.params().iter() {
            let Some((_, expected)) = values.get(&format!("after.{}", param.name())) else {
                continue;
            };
            let error = relative_error(&param.to_vec().unwrap(), expected);
            assert!(error < 1e-5, "{name}: {} {error}", param.name());
            compared += 1;
        }
        assert!(compared > 6, "{name}: {compared}");
        let (model, values) = load(name);
        check_gradients(name, &model, &batch, &values, &noise, 1e-4);
    }
}

#[test]
fn impossible_networks_are_refused_by_their_field() {
    let level = |change: fn(&mut Value)| {
        let mut level = json!({"npoint": 4, "radius_list": [0.5], "nsample_list": [4],
            "mlp_list": [[8]]});
        change(&mut level);
        json!({"set_abstraction": [level]})
    };
    for (mut config, part) in [
        (json!({"normal_channel": true}), "`normal_channel` is true"),
        (json!({"dropout_rate": 1.0}), "`dropout_rate` is 1"),
        (json!({"embed_dim": 0}), "`embed_dim`: 0"),
        (json!({"hidden_dim": 1 << 20}), "`hidden_dim`: 1048576"),
        (json!({"num_points": 0}), "`num_points`: 0"),
        (json!({"density_adaptive_type": "both"}), "`both`"),
        (json!({"set_abstraction": []}), "`set_abstraction` is empty"),
        (level(|l| l["npoint"] = 0.into()), "`npoint`: 0"),
        (
            level(|l| l["nsample_list"] = json!([0])),
            "`nsample_list` is 0",
        ),
        (
            level(|l| l["radius_list"] = json!([-1.0])),
            "`radius_list`: -1",
        ),
        (level(|l| l["mlp_list"] = json!([[]])), "`mlp_list` is 0"),
        (level(|l| l["mlp_list"] = json!([[8], [8]])), "one value"),
        (
            level(|l| {
                *l = json!({"npoint": 4, "radius_list": [0.5, 1.0], "nsample_list": [4, 4],
                    "mlp_list": [[8], [8]]});
            }),
            "2 scales; `ssg` has one",
        ),
    ] {
        config["model_type"] = "pointnet2".into();
        let error = ModelConfig::parse(&config).unwrap_err().to_string();
        assert!(error.contains(part), "{config}: {error}");
    }
}

/// Pseudorandom numbers from 0 to 1.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// Returns the points of a shape: a ball, a cross of three bars, a ring, or a
/// tube.
fn shape(kind: usize, points: usize, random: &mut Numbers) -> Vec<Point> {
    let turn = std::f32::consts::TAU;
    // Shapes of one kind all differ.
    let sides = [0; 3].map(|_| 0.7 + 0.6 * random.next());
    let moved = [0; 3].map(|_| 4.0 * random.next());
    let cloud = (0..points).map(|_| {
        let (a, b) = (turn * random.next(), random.next());
        let point = match kind {
            0 => {
                let height = 2.0 * b - 1.0;
                let around = (1.0 - height * height).sqrt();
                [around * a.cos(), height, around * a.sin()]
            }
            1 => {
                let mut point = [0; 3].map(|_| 0.2 * random.next() - 0.1);
                point[(random.next() * 3.0) as usize % 3] = 2.4 * b - 1.2;
                point
            }
            2 => {
                let around = 1.0 + 0.3 * (turn * b).cos();
                [around * a.cos(), 0.3 * (turn * b).sin(), around * a.sin()]
            }
            _ => [0.4 * a.cos(), 2.4 * b - 1.2, 0.4 * a.sin()],
        };
        [0, 1, 2].map(|i| point[i] * sides[i] + moved[i])
    });
    cloud.collect()
}

/// Returns `count` shapes of each kind.
pub(crate) fn shapes(count: usize, seed: u64) -> DocumentArray {
    let mut random = Numbers(seed);
    let all = (0..4 * count).map(|i| {
        let points = shape(i % 4, 100, &mut random);
        Document::tensor(points.as_flattened(), &[100, 3]).with_label(i as u64 % 4)
    });
    all.collect()
}

/// Writes a small network with random weights to a folder.
pub(crate) fn small_network(folder: &Path) {
    let config = json!({"model_type": "pointnet2", "hidden_dim": 32, "embed_dim": 16,
    "num_points": 64, "dropout_rate": 0.1, "last_mlp": [32],
    "set_abstraction": [
        {"npoint": 16, "radius_list": [0.4], "nsample_list": [8], "mlp_list": [[16, 16]]},
        {"npoint": 6, "radius_list": [0.8], "nsample_list": [8], "mlp_list": [[24, 24]]},
    ]});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let weights = ModelConfig::parse(&config).unwrap().random_weights(3);
    let path = folder.join("model.safetensors");
    write_safetensors(&path, &weights, FloatFormat::F32).unwrap();
}

#[test]
fn a_network_learns_kinds_of_shapes_and_later_runs_continue_from_it() {
    let folder = tempfile::tempdir().unwrap();
    small_network(folder.path());
    let data = Data::from([("train", shapes(30, 1)), ("eval", shapes(6, 2))]);
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 30, "batch_size": 16,
        "learning_rate": 3e-3});
    let callbacks = json!([{"name": "EvaluationCallback",
        "options": {"query_data": "eval", "index_data": "train", "limit": 3}}]);
    let model = json!({"name": folder.path(), "options": {"augmentation": "light"}});
    let first = run(config(model, hyper, callbacks), &data).unwrap();
    let (before, after) = (&first.finished.before, &first.finished.after);
    let rises = |metric: &str| after[metric] > before[metric];
    assert!(
        rises("recall_at_k") && rises("precision_at_k") && after["precision_at_k"] > 0.85,
        "{before:?} {after:?}"
    );

    let encoder = first.encoder();
    assert_eq!((encoder.kind(), encoder.dim()), (ModelKind::PointCloud, 16));
    let mut random = Numbers(9);
    let clouds = [0, 1, 2, 3, 0].map(|kind| shape(kind, 80, &mut random));
    let clouds: Vec<&[Point]> = clouds.iter().map(Vec::as_slice).collect();
    let found = encoder.encode_point_clouds(&clouds).unwrap();
    assert_eq!(found.len(), 5);

    // Another run continues from it, with almost no change.
    let opened = first.opened();
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 1, "batch_size": 16,
        "learning_rate": 1e-12});
    let frozen = json!({"artifact": "an-id", "freeze": true, "output_dim": 8});
    let next = config(json!({"artifact": "an-id"}), hyper.clone(), json!([]));
    let second = run_from(next, &data, Some(opened.path())).unwrap();
    let again = second.encoder();
    assert_eq!(again.dim(), 16);
    assert!(again.encode_point_clouds(&clouds).is_ok());
    let third = run_from(config(frozen, hyper, json!([])), &data, Some(opened.path())).unwrap();
    assert_eq!(third.encoder().dim(), 8);
}

#[test]
fn pointnet_base_warns_that_its_weights_are_random() {
    let data = Data::from([("train", shapes(2, 1))]);
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 1, "batch_size": 8});
    let options = json!({"hidden_dim": 24, "embed_dim": 8});
    let model = json!({"name": "pointnet-base", "options": options});
    let run = run(config(model, hyper, json!([])), &data).unwrap();
    assert!(run.logged("`pointnet-base` begins with random weights"));
    assert_eq!(run.encoder().dim(), 8);
}

#[test]
fn unusable_settings_and_data_of_point_clouds_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    small_network(folder.path());
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 1, "batch_size": 8});
    let refused = |model: Value, documents: Vec<Document>| -> String {
        let data = Data::from([("train", documents.into())]);
        let result: Result<_, Error> = run(config(model, hyper.clone(), json!([])), &data);
        result.err().unwrap().to_string()
    };
    let row = |options: Value| json!({"name": "pointnet-base", "options": options});
    let good = || shapes(2, 1).into_iter().collect::<Vec<_>>();
    let onnx = json!({"name": "pointnet-base", "to_onnx": true});
    for (model, part) in [
        (
            row(json!({"input_shape": "bcn"})),
            "`input_shape` is \"bcn\"",
        ),
        (row(json!({"dropout_rate": 2})), "`dropout_rate` is 2"),
        (row(json!({"hidden_dim": 0})), "`hidden_dim` is 0"),
        (onnx, "`to_onnx`: true"),
    ] {
        let found = refused(model, good());
        assert!(found.contains(part), "{part}: {found}");
    }
    let own = || json!({"name": folder.path()});
    let data = Data::from([("train", shapes(2, 1))]);
    let single = json!({"loss": "ArcFaceLoss", "epochs": 1, "batch_size": 1});
    let error = run(config(own(), single, json!([])), &data).err().unwrap();
    assert!(error.to_string().contains("at least 2 clouds"), "{error}");
    for (document, part) in [
        (Document::text("a chair"), "it holds no point cloud"),
        (Document::tensor(&[0.0; 8], &[4, 2]), "[4, 2]"),
        (Document::tensor(&[0.0; 12], &[3, 4]), "[3, 4]"),
        (
            Document::tensor(&[1.0; 12], &[4, 3]),
            "all its points are the same",
        ),
        (
            Document::tensor(&[1.0, 2.0, f32::NAN, 0.0, 0.0, 0.0], &[2, 3]),
            "holds NaN",
        ),
    ] {
        let mut documents = good();
        documents.push(document.with_label(1));
        let found = refused(own(), documents);
        assert!(found.contains(part), "{part}: {found}");
    }
    let encoder = Encoder::from_folder(folder.path()).unwrap();
    let error = encoder.save_onnx(folder.path().join("onnx")).unwrap_err();
    assert!(error.to_string().contains("no ONNX form"), "{error}");
    assert!(!folder.path().join("onnx").exists());
}
