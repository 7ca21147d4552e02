//! The environment variables of a worker.

/// Address of the server.
pub(crate) const WORKER_URL: &str = "FINETUNER_WORKER_URL";
/// Setting that makes a worker's allocator keep freed memory. A step needs the
/// same large buffers as the step before, and the system would clear each of
/// them again.
pub(crate) const KEEP_MEMORY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "-1");
/// Path of the file with the start token.
pub(crate) const WORKER_START: &str = "FINETUNER_WORKER_START";
/// The start token itself, for child processes only.
pub(crate) const WORKER_TOKEN: &str = "FINETUNER_WORKER_TOKEN";
/// Prefix of the temporary folder's name.
pub(crate) const WORKER_FOLDER: &str = "FINETUNER_WORKER_FOLDER";
/// Path of a PEM file with certificate authorities that the worker trusts in
/// addition to the system's.
pub(crate) const WORKER_CA: &str = "FINETUNER_WORKER_CA";
/// Folder of the machine's cache. Without it there is no cache.
pub(crate) const WORKER_CACHE: &str = "FINETUNER_WORKER_CACHE";
/// Size limit of the cache, in MiB.
pub(crate) const WORKER_CACHE_MB: &str = "FINETUNER_WORKER_CACHE_MB";
