//! The environment variables of a worker.

/// The server's address.
pub(crate) const WORKER_URL: &str = "FINETUNER_WORKER_URL";
/// Makes a worker's allocator keep what is freed: a step needs the same large
/// buffers as the one before, and the system would clear each of them anew.
pub(crate) const KEEP_MEMORY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "-1");
/// The path of the file that holds the start token.
pub(crate) const WORKER_START: &str = "FINETUNER_WORKER_START";
/// The start token, for child processes alone.
pub(crate) const WORKER_TOKEN: &str = "FINETUNER_WORKER_TOKEN";
/// The start of the temporary folder's name.
pub(crate) const WORKER_FOLDER: &str = "FINETUNER_WORKER_FOLDER";
/// The path of a file with certificate authorities in PEM form, which the worker
/// trusts beside the system's.
pub(crate) const WORKER_CA: &str = "FINETUNER_WORKER_CA";
/// The folder of the machine's cache. There is no cache without it.
pub(crate) const WORKER_CACHE: &str = "FINETUNER_WORKER_CACHE";
/// The most MiB of all files in the cache.
pub(crate) const WORKER_CACHE_MB: &str = "FINETUNER_WORKER_CACHE_MB";
