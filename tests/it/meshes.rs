//! Training on meshes with the real backend.

use std::{fmt::Write, path::Path};

use finetuner::{
    Csv, CsvOptions,
    local::{self, point_cloud},
};

use crate::backend::start;

/// Returns the sides of a pyramid with this number of corners, as an OFF file.
fn pyramid(corners: usize, height: f64) -> String {
    let mut file = format!("OFF\n{} {corners} 0\n0 {height} 0\n", corners + 1);
    for corner in 0..corners {
        let angle = std::f64::consts::TAU * corner as f64 / corners as f64;
        writeln!(file, "{} 0 {}", angle.cos(), angle.sin()).unwrap();
    }
    for corner in 0..corners {
        let next = (corner + 1) % corners;
        writeln!(file, "3 0 {} {}", corner + 1, next + 1).unwrap();
    }
    file
}

/// Returns a CSV file that names flat and steep pyramids.
fn write_meshes(folder: &Path) -> String {
    let mut csv = String::new();
    for i in 0..8 {
        let (label, height) = if i % 2 == 0 {
            ("flat", 0.3)
        } else {
            ("steep", 4.0)
        };
        let path = folder.join(format!("{i}.off"));
        std::fs::write(&path, pyramid(3 + i, height + 0.02 * i as f64)).unwrap();
        writeln!(csv, "{},{label}", path.display()).unwrap();
    }
    csv
}

#[tokio::test(flavor = "multi_thread")]
async fn a_csv_file_of_meshes_trains_a_mesh_model() {
    let folder = tempfile::tempdir().unwrap();
    let csv = write_meshes(folder.path());
    let (_server, finetuner) = start().await;
    let options = CsvOptions::new().is_labeled(true).point_cloud_size(48);
    let run = finetuner
        .fit("pointnet-base", Csv::text(csv).options(options))
        .model_options([("hidden_dim", 16), ("embed_dim", 8)])
        .epochs(1)
        .batch_size(8)
        .learning_rate(1e-3)
        .await
        .unwrap();
    run.wait().await.unwrap();
    let log = run.logs().await.unwrap();
    assert!(log.contains("begins with random weights"), "{log}");
    let saved = run.save_model(folder.path().join("model")).await.unwrap();

    tokio::task::spawn_blocking(move || {
        let model = local::get_model(saved).unwrap();
        let flat = point_cloud(folder.path().join("0.off"), 48).unwrap();
        let steep = point_cloud(folder.path().join("1.off"), 48).unwrap();
        let found = model.encode_point_clouds(&[&flat, &steep, &flat]).unwrap();
        assert_eq!((found.len(), found.dim), (3, 8));
        assert_eq!(found.get(0), found.get(2));
        assert_ne!(found.get(0), found.get(1));
    })
    .await
    .unwrap();
}

#[test]
fn invalid_meshes_give_no_points() {
    let error = point_cloud("no-such-file.off", 8).unwrap_err().to_string();
    assert!(error.contains("no-such-file.off"), "{error}");
}
