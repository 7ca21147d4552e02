//! Finds and reads models: bundled with the engine, in a folder with Hugging
//! Face's layout, in an artifact, or on the Hugging Face hub and in its local
//! cache.

mod adapter;
mod archive;
mod bundled;
mod extras;
mod files;
#[cfg(feature = "hub")]
mod hub;
mod load;
mod names;
mod open_clip;
mod origin;
mod rules;
mod towers;
mod untyped;
mod weights;

use std::path::{Path, PathBuf};

pub use archive::{kind_of_artifact, open_artifact};
pub(crate) use extras::{EXTRAS_FILE, Extras, HEAD_FILE};
use files::Described;
pub use files::ModelFiles;
use finetuner_protocol::{
    OpenClip, Task, cross_encoder_hub_name, find_backbone, listed_task, open_clip_names,
    worker::LocalModels,
};
pub use load::{LoadOptions, LoadedModel, ModelDescription, OutputKind};
use names::{check_folder, is_hub_name, is_revision, not_trainable};
pub use origin::Origin;
pub use rules::HubRules;
use serde_json::{Value, json};

use crate::{
    Error, Result,
    models::{MlpConfig, ModelConfig, ModelKind, TWO_TOWERS},
    modules,
};

/// The location of a model's files.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelSource {
    /// A small model that ships with the engine, by name.
    Bundled(&'static str),
    /// A folder.
    Folder(PathBuf),
    /// A repository on the hub: `owner/name`, or `owner/name@revision` with a
    /// branch, tag or commit.
    Hub(String),
    /// The artifact of an earlier run, by ID. The job that executes the run
    /// fetches it.
    Artifact(String),
    /// A text model and an image model under new projections; `None` if only
    /// the name is known yet.
    Towers(Option<TowerSources>),
    /// A new multilayer perceptron; `None` if only the name is known yet.
    Mlp(Option<MlpConfig>),
    /// A new PointNet++ with this `config.json`.
    PointNet(Value),
}

/// The models of the towers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TowerSources {
    /// The text model.
    pub text: Box<ModelSource>,
    /// The image model.
    pub image: Box<ModelSource>,
    /// Embedding dimension.
    pub dim: usize,
    /// Seed of the new projections.
    pub seed: u64,
}

impl ModelSource {
    /// Resolves a model's name without reading its weights.
    ///
    /// A name that starts with `/`, `./` or `../` is a folder. It must be
    /// inside a folder that `local` allows, after following links.
    ///
    /// # Errors
    /// [`Error::Model`] if the name can't denote a model.
    pub fn resolve(name: &str, local: &LocalModels) -> Result<Self> {
        if let Some(bundled) = bundled::find(name)? {
            return Ok(Self::Bundled(bundled));
        }
        let path = Path::new(name);
        if path.is_absolute() || name.starts_with("./") || name.starts_with("../") {
            check_folder(name, local)?;
            let lists = [
                "config.json",
                modules::LIST_FILE,
                open_clip::CONFIG_FILE,
                adapter::ADAPTER_FILE,
            ];
            return if lists.iter().any(|file| path.join(file).is_file()) {
                // The base model of an adapter must be allowed too.
                if let Ok(Described::AdapterOf(base)) = describe_folder(path) {
                    Self::base(&base, Some(path), local)?;
                }
                Ok(Self::Folder(path.to_owned()))
            } else {
                Err(Error::model(name, "the folder has no config.json"))
            };
        }
        let name = cross_encoder_hub_name(name).unwrap_or(name);
        let (plain, revision) = match name.split_once('@') {
            Some((plain, revision)) => (plain, Some(revision)),
            None => (name, None),
        };
        let pinned = |hub: &str| match revision {
            None => Ok(Self::Hub(hub.to_owned())),
            Some(revision) if is_revision(revision) => Ok(Self::Hub(format!("{hub}@{revision}"))),
            Some(revision) => {
                let reason = format!("`{revision}` can't be a branch, tag or commit of the hub");
                Err(Error::model(name, reason))
            }
        };
        match finetuner_protocol::open_clip(plain).filter(|_| find_backbone(plain).is_none()) {
            Some(OpenClip::Hub(hub)) => return pinned(hub),
            Some(_) => {
                let known: Vec<String> = open_clip_names().collect();
                let reason = format!(
                    "this model of open_clip is not supported; supported are {}",
                    known.join(", ")
                );
                return Err(Error::model(name, reason));
            }
            None => {}
        }
        match find_backbone(plain) {
            Some(backbone) if !backbone.trainable => {
                Err(Error::model(name, not_trainable(backbone)))
            }
            Some(backbone) if revision.is_some() && !backbone.hub_name().contains('/') => {
                let reason = "it is not on the hub and has no revisions: remove the `@` and the text after it";
                Err(Error::model(name, reason))
            }
            Some(backbone) if backbone.name == "mlp" => Ok(Self::Mlp(None)),
            Some(backbone) if backbone.task == Task::MeshToMesh => Ok(Self::PointNet(json!({
                "model_type": "pointnet2", "hidden_dim": 1024, "embed_dim": backbone.output_dim,
                "grouping": "nearest", "center_last": true,
            }))),
            Some(backbone) if backbone.name == TWO_TOWERS => Ok(Self::Towers(None)),
            Some(backbone) => pinned(backbone.hub_name()),
            None if is_hub_name(plain) => pinned(plain),
            None => Err(Error::model(
                name,
                "it is not in the list of backbones. Choose one from the list, such as `clip-small`, \
                 `minilm-small` or `openai/clip-vit-base-patch32`; or a model on the hub with a known \
                 architecture (`owner/name` or `owner/name@revision`); or a folder whose path begins \
                 with `/` or `./`",
            )),
        }
    }

    /// Returns the kind of data that the model embeds, without reading weights.
    /// If a hub model is neither in the list of backbones nor in the cache,
    /// this downloads its description and does not store it.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a `config.json` is unreadable or describes an
    /// unknown model; [`Error::Model`] if the hub can't be reached.
    pub fn kind(&self, rules: &HubRules) -> Result<ModelKind> {
        let listed = |name: &str| listed_task(name).map(|task| ModelKind::of_task(&task));
        Ok(match self {
            Self::Bundled(name) => match listed(name) {
                Some(kind) => kind,
                None => ModelConfig::kind_of(&self.read()?.config)?,
            },
            Self::Folder(folder) => {
                let (network, mut config) = match describe_folder(folder)? {
                    Described::Network(network, config) => (network, config),
                    Described::AdapterOf(base) => {
                        return Self::base(&base, Some(folder), &LocalModels::Anywhere)?
                            .kind(rules);
                    }
                };
                let find = |file: &str| Ok(find_in(folder, &format!("{network}{file}")));
                untyped::complete(&mut config, &find)?;
                ModelConfig::kind_of(&config)?
            }
            Self::Hub(name) => match listed(name) {
                Some(kind) => kind,
                None => {
                    let mut config = match Self::peek(name, rules)? {
                        Described::Network(_, config) => config,
                        Described::AdapterOf(base) => {
                            return Self::base(&base, None, &LocalModels::Nowhere)?.kind(rules);
                        }
                    };
                    untyped::assume_bert(&mut config);
                    ModelConfig::kind_of(&config)?
                }
            },
            Self::Mlp(_) => ModelKind::Features,
            Self::PointNet(_) => ModelKind::PointCloud,
            Self::Towers(_) => ModelKind::TextImage,
            Self::Artifact(id) => {
                return Err(Error::model(
                    id.as_str(),
                    "its artifact has not been fetched",
                ));
            }
        })
    }

    /// Resolves the base model of an adapter. An adapter from the hub must not
    /// name a folder.
    fn base(name: &str, folder: Option<&Path>, local: &LocalModels) -> Result<Self> {
        let near = folder.filter(|_| adapter::is_path(name) && Path::new(name).is_relative());
        let base = match near.map(|folder| folder.join(name)) {
            Some(path) if path.is_dir() => Self::resolve(&path.display().to_string(), local)?,
            _ => Self::resolve(name, local)?,
        };
        let adapted = match &base {
            Self::Folder(folder) => matches!(describe_folder(folder), Ok(Described::AdapterOf(_))),
            _ => false,
        };
        match adapted {
            true => Err(Error::model(name, NESTED)),
            false => Ok(base),
        }
    }

    /// Reads the description of a hub model.
    #[cfg(feature = "hub")]
    fn peek(name: &str, rules: &HubRules) -> Result<Described> {
        let hub = hub::Peek::new(name, rules);
        files::config(name, &|file: &str| hub.read(file))
    }

    #[cfg(not(feature = "hub"))]
    fn peek(name: &str, _: &HubRules) -> Result<Described> {
        Err(without_hub(name))
    }

    /// Reads the model's files. Models on the hub are downloaded without a size
    /// limit and with the token of this machine's user.
    ///
    /// # Errors
    /// [`Error::Model`] if a file can't be found or downloaded,
    /// [`Error::Checkpoint`] if one is broken.
    pub fn read(&self) -> Result<ModelFiles> {
        self.read_with(&HubRules::of_this_user())
    }

    /// Like [`ModelSource::read`], with other rules for the hub.
    ///
    /// # Errors
    /// As [`ModelSource::read`], and [`Error::Model`] if the files on the hub
    /// are larger than the rules allow.
    pub fn read_with(&self, rules: &HubRules) -> Result<ModelFiles> {
        // `resolve` has checked that the folder and its base model are allowed.
        let (folder, local) = match self {
            Self::Folder(folder) => (Some(folder.as_path()), LocalModels::Anywhere),
            _ => (None, LocalModels::Nowhere),
        };
        self.read_with_base(rules, &|base| {
            let nested = |_: &str| Err(Error::model(base, NESTED));
            Self::base(base, folder, &local)?.read_with_base(rules, &nested)
        })
    }

    fn read_with_base(
        &self,
        rules: &HubRules,
        base: &dyn Fn(&str) -> Result<ModelFiles>,
    ) -> Result<ModelFiles> {
        #[cfg(not(feature = "hub"))]
        let _ = rules;
        match self {
            Self::Bundled(name) => bundled::read(name),
            Self::Folder(folder) => {
                let name = folder.display().to_string();
                ModelFiles::gather(&name, |file| Ok(find_in(folder, file)), base)
            }
            #[cfg(feature = "hub")]
            Self::Hub(name) => hub::gather(name, rules, base),
            #[cfg(not(feature = "hub"))]
            Self::Hub(name) => Err(without_hub(name)),
            Self::Towers(Some(towers)) => towers::join(
                towers.text.read_with(rules)?,
                towers.image.read_with(rules)?,
                towers.dim,
                towers.seed,
            ),
            Self::Towers(None) => Err(Error::model(
                TWO_TOWERS,
                "its towers are missing: set `text_model` and `image_model`",
            )),
            Self::Mlp(Some(config)) => {
                let mut config = json!(config);
                config["model_type"] = "mlp".into();
                Ok(ModelFiles {
                    config,
                    ..ModelFiles::default()
                })
            }
            Self::Mlp(None) => Err(Error::model(
                "mlp",
                "its sizes are missing: set `input_size` and `hidden_sizes`",
            )),
            Self::PointNet(config) => {
                let mut files = ModelFiles {
                    config: config.clone(),
                    ..ModelFiles::default()
                };
                files.modules.notes.push(NO_WEIGHTS.to_owned());
                Ok(files)
            }
            Self::Artifact(id) => Err(Error::model(
                id.as_str(),
                "its artifact has not been fetched",
            )),
        }
    }

    /// Returns whether the network is new, with random weights.
    pub(crate) fn is_new(&self) -> bool {
        matches!(self, Self::Mlp(_) | Self::PointNet(_))
    }
}

/// Error if the base model of an adapter is itself an adapter.
const NESTED: &str = "an adapter's base model, this one, is an adapter itself: merge it in Python \
                      (`merge_and_unload` of peft) and save the merged model";

/// Returns the path of a file in a folder, if it exists.
fn find_in(folder: &Path, file: &str) -> Option<PathBuf> {
    let path = folder.join(file);
    path.is_file().then_some(path)
}

/// Reads the description of the model in a folder.
fn describe_folder(folder: &Path) -> Result<Described> {
    files::config(&folder.display().to_string(), &|file| {
        let read = |path: PathBuf| std::fs::read(&path).map_err(|e| Error::io(&path, e));
        find_in(folder, file).map(read).transpose()
    })
}

/// Warning for the log of a run with a new PointNet++.
const NO_WEIGHTS: &str = "`pointnet-base` begins with random weights, since no compatible pretrained \
                          weights are published: its embeddings are meaningless before training. \
                          To start from your own weights, give the folder of such a model instead";

#[cfg(not(feature = "hub"))]
fn without_hub(name: &str) -> Error {
    let reason =
        "this build has no access to the hub: give the path of a folder with the model's files";
    Error::model(name, reason)
}

impl HubRules {
    /// Returns rules without a size limit, with the token that the hub's own
    /// tools store for this user.
    #[must_use]
    pub fn of_this_user() -> Self {
        Self {
            max_bytes: None,
            #[cfg(feature = "hub")]
            token: hub::token(),
            #[cfg(not(feature = "hub"))]
            token: None,
        }
    }
}

/// Returns the folder in which hub models are cached on this machine.
#[cfg(feature = "hub")]
#[must_use]
pub fn hub_cache() -> PathBuf {
    hub::cache_folder()
}

#[cfg(test)]
mod tests {
    use finetuner_protocol::CLIP_SMALL;

    use super::*;

    #[test]
    fn names_resolve_to_their_kind() {
        let resolve = |name: &str| ModelSource::resolve(name, &LocalModels::Anywhere);
        assert_eq!(
            resolve(CLIP_SMALL).unwrap(),
            ModelSource::Bundled(CLIP_SMALL)
        );
        assert_eq!(resolve("mlp").unwrap(), ModelSource::Mlp(None));
        let hub = |name: &str| ModelSource::Hub(name.to_owned());
        for (name, expected, kind) in [
            (
                "openai/clip-vit-base-patch32",
                "openai/clip-vit-base-patch32",
                Some(ModelKind::TextImage),
            ),
            ("laion/CLIP-x.x_y", "laion/CLIP-x.x_y", None),
            ("resnet50", "microsoft/resnet-50", Some(ModelKind::Image)),
            ("me/my-resnet", "me/my-resnet", None),
            (
                "bert-base-en",
                "google-bert/bert-base-cased",
                Some(ModelKind::Text),
            ),
            ("a/all-MiniLM", "a/all-MiniLM", None),
            ("a/all-MiniLM@refs/pr/1", "a/all-MiniLM@refs/pr/1", None),
            (
                "ViT-B-32#openai",
                "openai/clip-vit-base-patch32",
                Some(ModelKind::TextImage),
            ),
            (
                "ViT-L-14::laion400m_e32",
                "timm/vit_large_patch14_clip_224.laion400m_e32",
                Some(ModelKind::TextImage),
            ),
            (
                "resnet50@v1.0",
                "microsoft/resnet-50@v1.0",
                Some(ModelKind::Image),
            ),
        ] {
            let source = resolve(name).unwrap();
            assert_eq!(source, hub(expected));
            // The hub is not asked about listed models.
            let found = listed_task(name).map(|task| ModelKind::of_task(&task));
            assert_eq!(found, kind, "{name}");
        }
        for (name, reason) in [
            ("no-such-model", "not in the list"),
            ("../nowhere/clip", "no config.json"),
            ("clip/../../etc", "not in the list"),
            ("a/clip;rm", "not in the list"),
            ("a/clip@../../x", "can't be a branch, tag or commit"),
            ("a/clip@", "can't be a branch, tag or commit"),
            ("RN50::openai", "open_clip is not supported"),
            ("a/clip@a@b", "can't be a branch, tag or commit"),
            ("clip-small@main", "has no revisions"),
            ("mlp@main", "has no revisions"),
            ("", "not in the list"),
        ] {
            let error = resolve(name).unwrap_err().to_string();
            assert!(error.contains(reason), "{name}: {error}");
        }
        let refused = ModelSource::resolve("/tmp", &LocalModels::Nowhere)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("--local-models"), "{refused}");
    }

    #[test]
    fn models_are_loaded_only_from_allowed_folders() {
        let root = tempfile::tempdir().unwrap();
        let (models, other) = (root.path().join("models"), root.path().join("other"));
        for folder in [models.join("one"), other.clone()] {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("config.json"), "{}").unwrap();
        }
        let allowed = LocalModels::In(vec![models.clone()]);
        let resolve = |path: &Path| ModelSource::resolve(path.to_str().unwrap(), &allowed);
        let good = resolve(&models.join("one")).unwrap();
        assert_eq!(good, ModelSource::Folder(models.join("one")));
        let mut outside = vec![other.clone(), models.join("one/../../other")];
        outside.push(root.path().join("models-2"));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&other, models.join("link")).unwrap();
            outside.push(models.join("link"));
        }
        for path in outside {
            let error = resolve(&path).unwrap_err().to_string();
            assert!(error.contains("only from folders in"), "{error}");
        }
    }
}
