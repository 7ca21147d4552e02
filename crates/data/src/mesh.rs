//! Samples point clouds from the surfaces of meshes.

mod formats;

use std::path::Path;

use finetuner_protocol::Document;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};

use formats::{Point, Triangle, obj, off, polygons, stl};

/// Returns a document with a tensor of `count` points, of shape `[count, 3]`.
///
/// The same file always gives the same points, so that repeated pushes of the same data
/// are equal.
pub(crate) fn point_cloud(path: &Path, count: u32) -> Result<Document, String> {
    let points = points_of(path, count)?;
    Ok(Document::tensor(points.as_flattened(), &[count, 3]))
}

/// Samples `count` points uniformly from the surface of a mesh.
///
/// The format is that of the file extension: OFF, OBJ or STL. The same file always gives
/// the same points.
///
/// # Errors
/// Returns the reason why the file can't be read as a mesh.
pub fn points_of(path: &Path, count: u32) -> Result<Vec<Point>, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let extension = path.extension().and_then(|extension| extension.to_str());
    let triangles = match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("off") => polygons(&bytes, off),
        Some("obj") => polygons(&bytes, obj),
        Some("stl") => stl(&bytes),
        _ => Err(
            "it is not a mesh in a supported format (.off, .obj, .stl): convert it, give documents \
             with tensors, or set `create_point_clouds(false)`"
                .to_owned(),
        ),
    };
    triangles
        .and_then(|triangles| sample(&triangles, count, &bytes))
        .map_err(|reason| format!("{}: {reason}", path.display()))
}

/// Samples points uniformly from the surface of triangles.
fn sample(triangles: &[Triangle], count: u32, seed: &[u8]) -> Result<Vec<Point>, String> {
    if count == 0 {
        return Err("`point_cloud_size` is 0: it must be at least 1".to_owned());
    }
    let mut total = 0.0;
    let cumulative: Vec<f64> = triangles
        .iter()
        .map(|triangle| {
            total += area(triangle);
            total
        })
        .collect();
    // This is also an error for NaN.
    if !(total > 0.0 && total.is_finite()) {
        return Err("its faces have no area to sample points from".to_owned());
    }
    let mut random = StdRng::from_seed(Sha256::digest(seed).into());
    let mut points = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let position = random.random::<f64>() * total;
        let index = cumulative.partition_point(|&end| end <= position);
        let [a, b, c] = triangles[index.min(triangles.len() - 1)];
        // Points in the outer half of the parallelogram are mirrored into the triangle.
        let (mut u, mut v): (f32, f32) = (random.random(), random.random());
        if u + v > 1.0 {
            (u, v) = (1.0 - u, 1.0 - v);
        }
        points.push([0, 1, 2].map(|i| a[i] + u * (b[i] - a[i]) + v * (c[i] - a[i])));
    }
    Ok(points)
}

fn area([a, b, c]: &Triangle) -> f64 {
    let edge = |end: &Point| [0, 1, 2].map(|i| f64::from(end[i]) - f64::from(a[i]));
    let (p, q) = (edge(b), edge(c));
    let cross = [
        p[1] * q[2] - p[2] * q[1],
        p[2] * q[0] - p[0] * q[2],
        p[0] * q[1] - p[1] * q[0],
    ];
    cross.iter().map(|x| x * x).sum::<f64>().sqrt() / 2.0
}

#[cfg(test)]
mod tests {
    use finetuner_protocol::Content;

    use super::*;

    /// A unit square in the plane z = 2, and a triangle of area 1/2 in the plane z = 5.
    const OFF: &str = "OFF 7 2 0\n0 0 2\n1 0 2\n1 1 2\n0 1 2\n\n# another\n0 0 5\n1 0 5\n0 1 5\n\
                       4 0 1 2 3\n3 4 5 6\n";
    const OBJ: &str = "# made by hand\nv 0 0 2\nv 1 0 2\nv 1 1 2\nv 0 1 2\nvn 0 0 1\n\
                       f 1/1/1 2/2/1 3/3/1 4/4/1\nv 0 0 5\nv 1 0 5\nv 0 1 5\nf -3 -2 -1\n";
    const STL: &str = "solid x\nfacet normal 0 0 1\nouter loop\nvertex 0 0 2\nvertex 1 0 2\n\
                       vertex 1 1 2\nendloop\nendfacet\nendsolid x\n";

    fn cloud(name: &str, content: &[u8], count: u32) -> Result<Vec<Point>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let document = point_cloud(&path, count)?;
        let Some(Content::Tensor(tensor)) = &document.content else {
            panic!("{document:?}")
        };
        let values = tensor.to_f32().unwrap();
        assert_eq!(values.len(), count as usize * 3);
        Ok(values.chunks(3).map(|p| [p[0], p[1], p[2]]).collect())
    }

    #[test]
    fn points_are_uniform_over_the_surface() {
        for (name, content) in [("a.off", OFF), ("a.OBJ", OBJ)] {
            let points = cloud(name, content.as_bytes(), 3000).unwrap();
            let on_square = |p: &&Point| p[2] == 2.0;
            let square: Vec<&Point> = points.iter().filter(on_square).collect();
            let inside = |x: f32| (0.0..=1.0).contains(&x);
            assert!(points.iter().all(|p| inside(p[0]) && inside(p[1])));
            let triangle = points.iter().filter(|p| p[2] == 5.0);
            assert!(triangle.clone().all(|p| p[0] + p[1] <= 1.0 + 1e-6));
            assert_eq!(square.len() + triangle.count(), 3000);
            // The square has two thirds of the area. 130 is five standard deviations.
            assert!(
                (square.len() as f64 - 2000.0).abs() < 130.0,
                "{}",
                square.len()
            );
            let mean = square.iter().map(|p| f64::from(p[0])).sum::<f64>() / square.len() as f64;
            assert!((mean - 0.5).abs() < 0.04, "{mean}");
        }
    }

    #[test]
    fn both_formats_of_stl_are_the_same_mesh() {
        let mut binary = b"solid but binary".to_vec();
        binary.resize(80, b' ');
        binary.extend(1_u32.to_le_bytes());
        for value in [
            0.0_f32, 0.0, 1.0, 0.0, 0.0, 2.0, 1.0, 0.0, 2.0, 1.0, 1.0, 2.0,
        ] {
            binary.extend(value.to_le_bytes());
        }
        binary.extend([0, 0]);
        assert_eq!(stl(&binary).unwrap(), stl(STL.as_bytes()).unwrap());
        assert_eq!(cloud("a.stl", STL.as_bytes(), 4).unwrap().len(), 4);
    }

    #[test]
    fn the_same_file_gives_the_same_cloud() {
        let sample = || cloud("a.off", OFF.as_bytes(), 16).unwrap();
        assert_eq!(sample(), sample());
    }

    #[test]
    fn invalid_meshes_are_errors() {
        let reason = |name: &str, content: &str| cloud(name, content.as_bytes(), 8).unwrap_err();
        for (name, content, said) in [
            ("a.off", "PLY", "does not begin with `OFF`"),
            ("a.off", "OFF\n3 1 0\n0 0 0\n", "ends before"),
            ("a.off", "OFF\n1 1 0\n0 0 0\n3 0 1 2\n", "has vertex 2"),
            ("a.off", "OFF\n1 0 0\n0 zero 0\n", "`zero`"),
            ("a.off", "OFF\n99999999999999 1 0\n", "ends before"),
            ("a.obj", "v 0 0 0\nf -2 1 1\n", "invalid vertex -2"),
            (
                "a.obj",
                "v 0 0 0\nf -9223372036854775808 1 1\n",
                "invalid vertex",
            ),
            ("a.obj", "v 0 0 0\nv 0 0 0\nf 1 2 1\n", "no area"),
            ("a.obj", "", "no area"),
            ("a.stl", "sol", "neither"),
            ("a.stl", "solid\nvertex 0 0 0\n", "incomplete"),
            ("a.glb", "glTF", ".off, .obj, .stl"),
        ] {
            let reason = reason(name, content);
            assert!(reason.contains(said), "{reason}");
        }
    }
}
