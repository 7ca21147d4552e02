use std::{
    cell::Cell,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::Barrier,
};

use tempfile::TempDir;
use zip::{ZipWriter, write::SimpleFileOptions};

use super::{
    disk::{Disk, Real, SyncWrite},
    manifest::{Compare, MANIFEST, STAGING, check_free},
    place::{Place, recover},
    unpack::{MAX_UNPACKED, unpack_zip},
    zip_path,
};
use crate::error::Result;

fn write_zip(path: &Path, files: &[(&str, &str)]) {
    let mut zip = ZipWriter::new(File::create(path).unwrap());
    for (name, text) in files {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap();
}

fn save_with(folder: &Path, files: &[(&str, &str)], limit: u64, disk: &dyn Disk) -> Result<()> {
    let place = Place::for_model(folder)?;
    write_zip(&place.staging.download(), files);
    place.unpack(limit, disk)
}

fn save(folder: &Path, files: &[(&str, &str)]) -> Result<()> {
    save_with(folder, files, MAX_UNPACKED, &Real)
}

/// Files of a version of a model: some are in all versions.
fn model(version: &'static str) -> [(&'static str, &'static str); 4] {
    let own = match version {
        "one" => "run/only/one.txt",
        _ => "run/only/others.txt",
    };
    [
        ("run/metadata.yml", version),
        ("run/model/config.json", version),
        ("run/model/weights", version),
        (own, version),
    ]
}

/// Returns the version of a complete model; panics if files are missing or mixed.
fn version_of(folder: &Path) -> String {
    check_free(folder, Compare::Contents).unwrap();
    let version = fs::read_to_string(folder.join("metadata.yml")).unwrap();
    for (path, _) in model(if version == "one" { "one" } else { "two" }) {
        let path = folder.join(path.strip_prefix("run/").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), version, "{path:?}");
    }
    assert_eq!(files_below(folder).len(), 5, "{:?}", files_below(folder));
    version
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(files_below(&path)),
            false => files.push(path),
        }
    }
    files
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Ways to put a model in its place.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// Folders are swapped.
    Swap,
    /// The old folder is renamed, then the new one.
    TwoRenames,
    /// The target can't be renamed, as a mount point.
    Inside,
}

const WAYS: [Way; 3] = [Way::Swap, Way::TwoRenames, Way::Inside];

/// The number of the operation that fails, and how.
type Fault = (usize, fn() -> io::Error);

/// A disk that fails, or kills the process, at one of its operations.
struct Faulty {
    way: Way,
    target: PathBuf,
    operations: Cell<usize>,
    fault: Option<Fault>,
}

impl Faulty {
    fn new(way: Way, target: &Path, fault: Option<Fault>) -> Self {
        Self {
            way,
            target: target.to_owned(),
            operations: Cell::new(0),
            fault,
        }
    }

    fn step(&self) -> io::Result<()> {
        let number = self.operations.get();
        self.operations.set(number + 1);
        match self.fault {
            Some((at, fault)) if at == number => Err(fault()),
            _ => Ok(()),
        }
    }

    fn touches_target(&self, paths: [&Path; 2]) -> bool {
        paths.iter().any(|path| **path == self.target)
    }
}

impl Disk for Faulty {
    fn create(&self, path: &Path) -> io::Result<Box<dyn SyncWrite>> {
        self.step()?;
        Real.create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.way == Way::Inside && self.target.exists() && self.touches_target([from, to]) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.step()?;
        Real.rename(from, to)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        match self.way {
            Way::Swap => {
                self.step()?;
                Real.exchange(one, other)
            }
            Way::TwoRenames => Err(io::ErrorKind::Unsupported.into()),
            Way::Inside => Err(io::ErrorKind::ResourceBusy.into()),
        }
    }
}

#[test]
fn saving_again_replaces_the_saved_files() {
    for way in WAYS {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("model");
        save(&folder, &model("one")).unwrap();
        assert_eq!(version_of(&folder), "one");
        let disk = Faulty::new(way, &folder, None);
        save_with(&folder, &model("two"), MAX_UNPACKED, &disk).unwrap();
        assert_eq!(version_of(&folder), "two", "{way:?}");
        assert!(!folder.join("only/one.txt").exists());
        assert_eq!(names(root.path()), ["model"], "{way:?}");
    }
}

#[test]
fn files_of_others_are_kept_and_named_in_the_error() {
    type Change = fn(&Path);
    let others: [(&str, Change); 5] = [
        ("thesis.txt", |folder| {
            fs::write(folder.join("thesis.txt"), "mine").unwrap();
        }),
        ("model/notes/day.md", |folder| {
            fs::create_dir(folder.join("model/notes")).unwrap();
            fs::write(folder.join("model/notes/day.md"), "mine").unwrap();
        }),
        ("results", |folder| {
            fs::create_dir(folder.join("results")).unwrap();
        }),
        ("model/config.json (changed", |folder| {
            fs::write(folder.join("model/config.json"), "own").unwrap();
        }),
        ("model/weights (changed", |folder| {
            fs::write(folder.join("model/weights"), "own!").unwrap();
        }),
    ];
    for (named, change) in others {
        for way in WAYS {
            let root = tempfile::tempdir().unwrap();
            let folder = root.path().join("model");
            save(&folder, &model("one")).unwrap();
            change(&folder);
            let before = files_below(&folder);
            let disk = Faulty::new(way, &folder, None);
            let error = save_with(&folder, &model("two"), MAX_UNPACKED, &disk).unwrap_err();
            assert!(error.is_file(), "{error}");
            assert!(error.to_string().contains(named), "{error}");
            let metadata = fs::read_to_string(folder.join("metadata.yml")).unwrap();
            assert_eq!(metadata, "one", "{named} {way:?}");
            assert_eq!(files_below(&folder), before, "{named} {way:?}");
            assert_eq!(names(root.path()), ["model"], "{named} {way:?}");
        }
    }
}

#[test]
fn a_folder_without_a_manifest_is_not_replaced() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("metadata.yml"), "x").unwrap();
    fs::write(folder.join("thesis.txt"), "x").unwrap();
    let text = save(&folder, &model("one")).unwrap_err().to_string();
    assert!(
        text.contains("thesis.txt") && text.contains("metadata.yml"),
        "{text}"
    );
    assert_eq!(names(&folder), ["metadata.yml", "thesis.txt"]);
    // A manifest with paths outside the folder is ignored.
    let list = r#"{"version": 1, "files": [{"path": "../../etc", "size": 1, "sha256": ""}]}"#;
    fs::write(folder.join(MANIFEST), list).unwrap();
    let text = save(&folder, &model("one")).unwrap_err().to_string();
    assert!(text.contains("../../etc"), "{text}");
    // An empty folder can be used.
    let empty = root.path().join("empty");
    fs::create_dir(&empty).unwrap();
    save(&empty, &model("one")).unwrap();
    assert_eq!(version_of(&empty), "one");
}

#[cfg(unix)]
#[test]
fn a_symbolic_link_to_the_folder_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("disk/model");
    save(&folder, &model("one")).unwrap();
    let link = root.path().join("latest");
    std::os::unix::fs::symlink(&folder, &link).unwrap();
    save(&link, &model("two")).unwrap();
    assert!(link.is_symlink());
    assert_eq!(version_of(&folder), "two");
    assert_eq!(names(&root.path().join("disk")), ["model"]);
}

#[test]
fn a_full_disk_leaves_the_old_model_unchanged() {
    for way in WAYS {
        // Until all operations succeed.
        for at in 0.. {
            let root = tempfile::tempdir().unwrap();
            let folder = root.path().join("model");
            save(&folder, &model("one")).unwrap();
            let full: fn() -> io::Error = || io::ErrorKind::StorageFull.into();
            let disk = Faulty::new(way, &folder, Some((at, full)));
            let saved = save_with(&folder, &model("two"), MAX_UNPACKED, &disk);
            let is_last = disk.operations.get() <= at;
            let version = version_of(&folder);
            match saved {
                Ok(()) => assert_eq!(version, "two"),
                Err(error) => {
                    assert_eq!(version, "one", "{way:?}, operation {at}");
                    let text = error.to_string();
                    assert!(text.starts_with(folder.to_str().unwrap()), "{text}");
                    assert!(!text.contains(".finetuner-save"), "{text}");
                }
            }
            assert_eq!(names(root.path()), ["model"], "{way:?}, operation {at}");
            if is_last {
                assert!(at > 4, "operations were counted");
                break;
            }
        }
    }
}

/// Saves in a process that kills itself: run by the test below.
#[test]
fn interrupted_save_in_a_child_process() {
    let Ok(job) = std::env::var("FINETUNER_TEST_KILLED_SAVER") else {
        return;
    };
    let (way, rest) = job.split_once(' ').unwrap();
    let (at, folder) = rest.split_once(' ').unwrap();
    let way = WAYS[way.parse::<usize>().unwrap()];
    let fault = (at.parse().unwrap(), (|| std::process::abort()) as fn() -> _);
    let disk = Faulty::new(way, Path::new(folder), Some(fault));
    save_with(Path::new(folder), &model("two"), MAX_UNPACKED, &disk).unwrap();
}

#[test]
fn an_interrupted_save_is_completed_or_undone() {
    let ways = WAYS.iter().enumerate();
    for (number, way) in ways {
        let mut left_something = false;
        for at in 0.. {
            let root = tempfile::tempdir().unwrap();
            let folder = root.path().join("model");
            save(&folder, &model("one")).unwrap();
            let name = module_path!().split_once("::").unwrap().1;
            let job = format!("{number} {at} {}", folder.display());
            let child = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    &format!("{name}::interrupted_save_in_a_child_process"),
                ])
                .env("FINETUNER_TEST_KILLED_SAVER", job)
                .output()
                .unwrap();
            left_something |= names(root.path()).len() > 1 || folder.join(".x").exists();
            if *way == Way::Swap {
                // Without a repair.
                version_of(&folder);
            }
            // After opening it, and after saving again.
            recover(&folder).unwrap();
            let version = version_of(&folder);
            assert!(["one", "two"].contains(&version.as_str()));
            assert_eq!(names(root.path()), ["model"], "{way:?}, operation {at}");
            assert!(!names(&folder).iter().any(|name| name.starts_with(STAGING)));
            save(&folder, &model("three")).unwrap();
            assert_eq!(version_of(&folder), "three");
            if child.status.success() {
                assert_eq!(version, "two");
                break;
            }
        }
        assert!(left_something, "{way:?}: no child was killed in the middle");
    }
}

#[test]
fn concurrent_saves_leave_one_complete_model() {
    for way in WAYS {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("model");
        if way == Way::Inside {
            fs::create_dir(&folder).unwrap();
        }
        let start = Barrier::new(4);
        std::thread::scope(|scope| {
            for version in ["one", "two", "three", "four"] {
                let (folder, start) = (&folder, &start);
                scope.spawn(move || {
                    let disk = Faulty::new(way, folder, None);
                    start.wait();
                    for _ in 0..5 {
                        save_with(folder, &model(version), MAX_UNPACKED, &disk).unwrap();
                    }
                });
            }
        });
        version_of(&folder);
        assert_eq!(names(root.path()), ["model"], "{way:?}");
    }
}

#[test]
fn the_name_of_a_zip_can_not_leave_the_folder() {
    let root = tempfile::tempdir().unwrap();
    for bad in ["../../evil", "/etc/evil", "a\\b", "..", "", "a\0b"] {
        let error = zip_path(root.path(), bad).unwrap_err();
        assert!(error.is_artifact(), "{bad}: {error}");
    }
    let path = zip_path(root.path(), "run").unwrap();
    for text in ["1", "2"] {
        let place = Place::for_zip(&path).unwrap();
        fs::write(place.staging.download(), text).unwrap();
        place.keep_zip(&Real).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(names(root.path()), ["run.zip"]);
    }
}

fn unpack_bytes(bytes: &[u8]) -> (TempDir, Result<()>) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("zip");
    fs::write(&path, bytes).unwrap();
    let target = root.path().join("target");
    let shown = Path::new("users/model");
    let mut file = File::open(&path).unwrap();
    let unpacked = unpack_zip(&mut file, &target, shown, MAX_UNPACKED, &Real);
    (root, unpacked.map(drop))
}

fn zip_of(files: &[(&str, &str)]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    write_zip(file.path(), files);
    fs::read(file.path()).unwrap()
}

#[test]
fn invalid_zips_are_refused_with_the_reason() {
    let whole = zip_of(&model("one"));
    let cases: [(&[u8], &str); 5] = [
        (b"", "the file is empty"),
        (b"<html>login</html>", "a web page"),
        (&whole[..whole.len() / 2], "cut off"),
        (b"PICKLE", "not a zip"),
        (&zip_of(&[]), "contains no files"),
    ];
    for (bytes, expected) in cases {
        let error = unpack_bytes(bytes).1.unwrap_err();
        assert!(error.is_artifact(), "{error}");
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
}

#[test]
fn zip_entries_stay_inside_the_folder_and_are_unique() {
    for (name, expected) in [
        ("run/../../evil", "leads out"),
        ("/tmp/evil", "leads out"),
        ("..\\evil", "leads out"),
        ("C:\\evil", "leads out"),
        ("run/.finetuner-files.json", "is called"),
    ] {
        let (root, unpacked) = unpack_bytes(&zip_of(&[(name, "x")]));
        let error = unpacked.unwrap_err();
        assert!(error.is_artifact(), "{error}");
        assert!(error.to_string().contains(expected), "{name}: {error}");
        assert!(!root.path().join("evil").exists());
    }
    let twice = zip_of(&[("run/a", "x"), ("run\\a", "y")]);
    let error = unpack_bytes(&twice).1.unwrap_err();
    assert!(
        error.is_artifact() && error.to_string().contains("`a`"),
        "{error}"
    );
    // In the form that Windows programs write, and with the folder that macOS adds.
    let files = [("run\\sub\\a.txt", "x"), ("__MACOSX/run/._a.txt", "y")];
    let (root, unpacked) = unpack_bytes(&zip_of(&files));
    unpacked.unwrap();
    assert!(root.path().join("target/sub/a.txt").exists());
    // Without a common top folder.
    let files = [("config.json", "x"), ("1_Pooling/config.json", "y")];
    let (root, unpacked) = unpack_bytes(&zip_of(&files));
    unpacked.unwrap();
    let read = |name| fs::read_to_string(root.path().join("target").join(name)).unwrap();
    assert_eq!(
        [read("config.json"), read("1_Pooling/config.json")],
        ["x", "y"]
    );

    let file = tempfile::NamedTempFile::new().unwrap();
    let mut link = ZipWriter::new(file.reopen().unwrap());
    link.add_symlink("run/link", "/etc/passwd", SimpleFileOptions::default())
        .unwrap();
    link.finish().unwrap();
    let error = unpack_bytes(&fs::read(file.path()).unwrap()).1.unwrap_err();
    assert!(error.to_string().contains("is a link"), "{error}");
}

#[test]
fn unpacking_stops_at_the_limit() {
    let zeros = "0".repeat(5000);
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    let bomb = [("run/a", zeros.as_str()), ("run/b", zeros.as_str())];
    let error = save_with(&folder, &bomb, 9_999, &Real).unwrap_err();
    assert!(
        error.to_string().contains("more than 9999 bytes"),
        "{error}"
    );
    assert_eq!(names(root.path()), Vec::<String>::new());
    save_with(&folder, &bomb, 10_000, &Real).unwrap();
}

#[test]
fn a_model_saved_by_an_earlier_version_is_kept_and_named() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    fs::create_dir(&folder).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::write(folder.join(name), "old").unwrap();
    }
    let error = save_with(&folder, &model("new"), 1 << 20, &Real).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("an earlier version saved this"), "{text}");
    assert!(text.contains("Delete the folder"), "{text}");
    assert_eq!(fs::read(folder.join("config.json")).unwrap(), b"old");
}
