//! Parses meshes in OFF (ModelNet), OBJ (ShapeNet) and STL files.

pub(super) type Point = [f32; 3];
pub(super) type Triangle = [Point; 3];

/// A mesh of polygons.
#[derive(Default)]
pub(super) struct Polygons {
    vertices: Vec<Point>,
    /// The indices of the corners of each face, from 0.
    faces: Vec<Vec<usize>>,
}

/// Returns the triangles of a mesh in a text format. Faces with more than three corners
/// are split into fans of triangles.
pub(super) fn polygons(
    bytes: &[u8],
    read: impl Fn(&str) -> Result<Polygons, String>,
) -> Result<Vec<Triangle>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    let mesh = read(text)?;
    let mut triangles = Vec::new();
    for face in &mesh.faces {
        let corner = |&index: &usize| {
            mesh.vertices.get(index).copied().ok_or_else(|| {
                let count = mesh.vertices.len();
                format!(
                    "a face has vertex {}, but the mesh has {count} vertices",
                    index + 1
                )
            })
        };
        let corners = face.iter().map(corner).collect::<Result<Vec<_>, _>>()?;
        for pair in corners.get(1..).unwrap_or_default().windows(2) {
            triangles.push([corners[0], pair[0], pair[1]]);
        }
    }
    Ok(triangles)
}

/// Parses the next word of a line.
fn number<T: std::str::FromStr>(word: Option<&str>) -> Result<T, String> {
    let word = word.ok_or("a line ends before its last number")?;
    word.parse()
        .map_err(|_| format!("it has `{word}`, expected a number"))
}

fn point<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Point, String> {
    Ok([
        number(words.next())?,
        number(words.next())?,
        number(words.next())?,
    ])
}

/// Parses Object File Format. In files of ModelNet, the counts may be in the same line as
/// `OFF`.
pub(super) fn off(text: &str) -> Result<Polygons, String> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut lines = lines.filter(|line| !line.is_empty());
    let head = lines.next().unwrap_or_default();
    let rest = head
        .strip_prefix("OFF")
        .ok_or("it does not begin with `OFF`")?;
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

/// Parses the vertices and faces of a Wavefront OBJ file.
pub(super) fn obj(text: &str) -> Result<Polygons, String> {
    let mut mesh = Polygons::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("v") => mesh.vertices.push(point(&mut words)?),
            Some("f") => {
                let known = mesh.vertices.len();
                let corner = |word: &str| {
                    // The format is vertex/texture/normal, from 1. A negative index counts
                    // back from the last vertex.
                    let index: i64 = number(word.split('/').next())?;
                    let back = index
                        .checked_neg()
                        .and_then(|back| usize::try_from(back).ok());
                    let from_end = back.and_then(|back| known.checked_sub(back));
                    match usize::try_from(index) {
                        Ok(index) if index > 0 => Ok(index - 1),
                        _ => from_end
                            .filter(|&index| index < known)
                            .ok_or_else(|| format!("a face has the invalid vertex {index}")),
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

/// Bytes of a binary STL file before its triangles: a header of 80 bytes and the number
/// of triangles.
const STL_HEAD: usize = 84;
/// Bytes of a triangle: a normal, three corners, and two bytes of attributes.
const STL_TRIANGLE: usize = 50;

/// Parses binary or text STL.
///
/// A binary file may also begin with `solid`, so the length of the file decides.
pub(super) fn stl(bytes: &[u8]) -> Result<Vec<Triangle>, String> {
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
        return Err("its last triangle is incomplete".to_owned());
    }
    Ok(corners
        .chunks_exact(3)
        .map(|t| [t[0], t[1], t[2]])
        .collect())
}
