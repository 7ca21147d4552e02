//! Random names for runs.

const FIRST: [&str; 24] = [
    "amber", "brave", "calm", "clever", "crisp", "eager", "fair", "gentle", "golden", "keen",
    "lively", "lucid", "mellow", "nimble", "patient", "plucky", "quiet", "rapid", "silver",
    "steady", "sunny", "swift", "vivid", "witty",
];

const SECOND: [&str; 24] = [
    "bose",
    "curie",
    "darwin",
    "euler",
    "fermi",
    "franklin",
    "galois",
    "gauss",
    "germain",
    "hopper",
    "hypatia",
    "kepler",
    "lamarr",
    "lovelace",
    "mendel",
    "mirzakhani",
    "newton",
    "noether",
    "pascal",
    "ramanujan",
    "shannon",
    "somerville",
    "turing",
    "wu",
];

/// Returns a name such as `nimble-noether-4f1c`.
pub(crate) fn random() -> String {
    let number: u64 = rand::random();
    let pick = |words: &[&'static str; 24], bits: u64| words[(bits % 24) as usize];
    format!(
        "{}-{}-{:04x}",
        pick(&FIRST, number >> 40),
        pick(&SECOND, number >> 20),
        number & 0xFFFF
    )
}
