//! Point clouds from meshes: points drawn from a mesh's surface, each part of
//! it as likely as its area says.
//!
//! The formats are those that collections of shapes use and that are simple
//! enough to be read here: OFF (ModelNet), OBJ (ShapeNet) and STL.

use std::path::Path;

use finetuner_protocol::Document;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};

type Point = [f32; 3];
type Triangle = [Point; 3];

/// A document with a cloud of `count` points, shape `[count, 3]`, drawn from
/// the mesh in a file. The same file gives the same cloud each time, so that
/// data which is pushed again is the same data.
pub(crate) fn point_cloud(path: &Path, count: u32) -> Result<Document, String> {
    let points = points_of(path, count)?;
    Ok(Document::tensor(points.as_flattened(), &[count, 3]))
}

/// Returns `count` points on the surface of the mesh in a file, always the same.
///
/// # Errors
/// Returns the reason why the file can't be read as a mesh.
pub fn points_of(path: &Path, count: u32) -> Result<Vec<Point>, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let ending = path.extension().and_then(|ending| ending.to_str());
    let triangles = match ending.map(str::to_ascii_lowercase).as_deref() {
        Some("off") => polygons(&bytes, off),
        Some("obj") => polygons(&bytes, obj),
        Some("stl") => stl(&bytes),
        _ => Err(
            "it is not a mesh of a kind that can be read here (.off, .obj, .stl): convert it, \
             give documents with tensors, or set `create_point_clouds(false)`"
                .to_owned(),
        ),
    };
    triangles
        .and_then(|triangles| draw(&triangles, count, &bytes))
        .map_err(|reason| format!("{}: {reason}", path.display()))
}

/// Points of triangles, uniform over their surface.
fn draw(triangles: &[Triangle], count: u32, seed: &[u8]) -> Result<Vec<Point>, String> {
    if count == 0 {
        return Err("`point_cloud_size` is 0, it must be 1 at least".to_owned());
    }
    let mut total = 0.0;
    let ends: Vec<f64> = triangles
        .iter()
        .map(|triangle| {
            total += area(triangle);
            total
        })
        .collect();
    // Not a number either.
    if !(total > 0.0 && total.is_finite()) {
        return Err("its faces have no area to draw points from".to_owned());
    }
    let mut random = StdRng::from_seed(Sha256::digest(seed).into());
    let mut points = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let place = random.random::<f64>() * total;
        let index = ends.partition_point(|&end| end <= place);
        let [a, b, c] = triangles[index.min(triangles.len() - 1)];
        // Uniform over the parallelogram, its outer half folded back.
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

/// A mesh of vertices and of faces that name them, from 0.
#[derive(Default)]
struct Polygons {
    vertices: Vec<Point>,
    faces: Vec<Vec<usize>>,
}

/// The triangles of a mesh in text form; faces with more corners are fans.
fn polygons(
    bytes: &[u8],
    read: impl Fn(&str) -> Result<Polygons, String>,
) -> Result<Vec<Triangle>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not a text".to_owned())?;
    let mesh = read(text)?;
    let mut triangles = Vec::new();
    for face in &mesh.faces {
        let corner = |&index: &usize| {
            mesh.vertices.get(index).copied().ok_or_else(|| {
                let count = mesh.vertices.len();
                format!("a face names vertex {}, there are {count}", index + 1)
            })
        };
        let corners = face.iter().map(corner).collect::<Result<Vec<_>, _>>()?;
        for pair in corners.get(1..).unwrap_or_default().windows(2) {
            triangles.push([corners[0], pair[0], pair[1]]);
        }
    }
    Ok(triangles)
}

fn number<T: std::str::FromStr>(word: Option<&str>) -> Result<T, String> {
    let word = word.ok_or("it ends in the middle of a line")?;
    word.parse()
        .map_err(|_| format!("`{word}` stands where a number is wanted"))
}

fn point<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Point, String> {
    Ok([
        number(words.next())?,
        number(words.next())?,
        number(words.next())?,
    ])
}

/// Object File Format, whose head may stand in one line with the counts, as in
/// ModelNet.
fn off(text: &str) -> Result<Polygons, String> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut lines = lines.filter(|line| !line.is_empty());
    let head = lines.next().unwrap_or_default();
    let rest = head.strip_prefix("OFF").ok_or("it begins without `OFF`")?;
    let counts = match rest.trim() {
        "" => lines.next().unwrap_or_default(),
        counts => counts,
    };
    let mut counts = counts.split_whitespace();
    let (vertices, faces): (usize, usize) = (number(counts.next())?, number(counts.next())?);
    let mut mesh = Polygons::default();
    let mut next = || lines.next().ok_or("it ends before its last face");
    for _ in 0..vertices {
        mesh.vertices.push(point(&mut next()?.split_whitespace())?);
    }
    for _ in 0..faces {
        let mut words = next()?.split_whitespace();
        let corners: usize = number(words.next())?;
        let mut face = Vec::new();
        for _ in 0..corners {
            face.push(number(words.next())?);
        }
        mesh.faces.push(face);
    }
    Ok(mesh)
}

/// Wavefront OBJ: its vertices and faces.
fn obj(text: &str) -> Result<Polygons, String> {
    let mut mesh = Polygons::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("v") => mesh.vertices.push(point(&mut words)?),
            Some("f") => {
                let known = mesh.vertices.len();
                let corner = |word: &str| {
                    // vertex/texture/normal; below zero counts from the last.
                    let index: i64 = number(word.split('/').next())?;
                    let back = index
                        .checked_neg()
                        .and_then(|back| usize::try_from(back).ok());
                    let from_end = back.and_then(|back| known.checked_sub(back));
                    match usize::try_from(index) {
                        Ok(index) if index > 0 => Ok(index - 1),
                        _ => from_end
                            .filter(|&index| index < known)
                            .ok_or_else(|| format!("a face names vertex {index}")),
                    }
                };
                mesh.faces
                    .push(words.map(corner).collect::<Result<_, String>>()?);
            }
            _ => {}
        }
    }
    Ok(mesh)
}

/// Bytes of a binary STL before its triangles, and of each triangle: a normal,
/// three corners, two bytes of attributes.
const STL_HEAD: usize = 84;
const STL_TRIANGLE: usize = 50;

/// STL in either form. A binary one may begin with `solid` as well, so that
/// its length decides.
fn stl(bytes: &[u8]) -> Result<Vec<Triangle>, String> {
    let count = bytes.get(80..STL_HEAD).and_then(|b| b.try_into().ok());
    let count = count.map(|b| u32::from_le_bytes(b) as usize);
    if let Some(body) = bytes.get(STL_HEAD..)
        && count == Some(body.len() / STL_TRIANGLE)
        && body.len() % STL_TRIANGLE == 0
    {
        let float = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let corner = |b: &[u8]| [float(&b[0..4]), float(&b[4..8]), float(&b[8..12])];
        let triangle = |t: &[u8]| [corner(&t[12..24]), corner(&t[24..36]), corner(&t[36..48])];
        return Ok(body.chunks_exact(STL_TRIANGLE).map(triangle).collect());
    }
    let text = std::str::from_utf8(bytes).ok();
    let text = text.filter(|text| text.trim_start().starts_with("solid"));
    let text = text.ok_or("it is neither a binary nor a text STL file")?;
    let mut corners = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.trim().strip_prefix("vertex") {
            corners.push(point(&mut rest.split_whitespace())?);
        }
    }
    if corners.len() % 3 != 0 {
        return Err("its last triangle is cut off".to_owned());
    }
    Ok(corners
        .chunks_exact(3)
        .map(|t| [t[0], t[1], t[2]])
        .collect())
}

#[cfg(test)]
mod tests {
    use finetuner_protocol::Content;

    use super::*;

    /// A unit square in the plane z = 2, and beside it a triangle of area 1/2
    /// at z = 5.
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
    fn points_lie_on_the_surface_as_areas_say() {
        for (name, content) in [("a.off", OFF), ("a.OBJ", OBJ)] {
            let points = cloud(name, content.as_bytes(), 3000).unwrap();
            let on_square = |p: &&Point| p[2] == 2.0;
            let square: Vec<&Point> = points.iter().filter(on_square).collect();
            let inside = |x: f32| (0.0..=1.0).contains(&x);
            assert!(points.iter().all(|p| inside(p[0]) && inside(p[1])));
            let triangle = points.iter().filter(|p| p[2] == 5.0);
            assert!(triangle.clone().all(|p| p[0] + p[1] <= 1.0 + 1e-6));
            assert_eq!(square.len() + triangle.count(), 3000);
            // Two thirds of the area, within five standard deviations.
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
    fn both_forms_of_stl_are_the_same_mesh() {
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
        let draw = || cloud("a.off", OFF.as_bytes(), 16).unwrap();
        assert_eq!(draw(), draw());
    }

    #[test]
    fn what_is_no_mesh_is_told() {
        let reason = |name: &str, content: &str| cloud(name, content.as_bytes(), 8).unwrap_err();
        for (name, content, said) in [
            ("a.off", "PLY", "begins without `OFF`"),
            ("a.off", "OFF\n3 1 0\n0 0 0\n", "ends before"),
            ("a.off", "OFF\n1 1 0\n0 0 0\n3 0 1 2\n", "names vertex 2"),
            ("a.off", "OFF\n1 0 0\n0 zero 0\n", "`zero`"),
            ("a.off", "OFF\n99999999999999 1 0\n", "ends before"),
            ("a.obj", "v 0 0 0\nf -2 1 1\n", "names vertex -2"),
            (
                "a.obj",
                "v 0 0 0\nf -9223372036854775808 1 1\n",
                "names vertex",
            ),
            ("a.obj", "v 0 0 0\nv 0 0 0\nf 1 2 1\n", "no area"),
            ("a.obj", "", "no area"),
            ("a.stl", "sol", "neither"),
            ("a.stl", "solid\nvertex 0 0 0\n", "cut off"),
            ("a.glb", "glTF", ".off, .obj, .stl"),
        ] {
            let reason = reason(name, content);
            assert!(reason.contains(said), "{reason}");
        }
    }
}
