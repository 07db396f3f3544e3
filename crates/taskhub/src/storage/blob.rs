//! Blobs, on the official crate.
//!
//! Owns the bound of a read: no blob is taken into memory beyond what the caller allows.
//! Content is returned as stored; whoever reads compressed blobs decompresses them.

use std::num::NonZero;
use std::sync::Arc;

use azure_core::http::headers::HeaderName;
use azure_core::http::{Etag, RequestContent};
use azure_storage_blob::models::{
    BlobClientDeleteOptions, BlobClientDownloadOptions, BlobClientUploadOptions, BlobContainerClientBreakLeaseOptions,
    BlobContainerClientCreateOptions, BlobContainerClientDeleteOptions, BlobContainerClientListBlobsOptions, LeaseState,
};
use azure_storage_blob::{BlobContainerClient, BlobServiceClient, BlobServiceClientOptions};
use futures::TryStreamExt;

use super::error::{Failure, StorageError, StorageErrorKind};
use super::pipeline::{Call, Caller, RESPONSE_LIMIT};
use super::queue::is_container_name;

/// Has all that is used here. The crate's own default is months old, which the emulator refuses and older stamps may.
const VERSION: &str = "2019-07-07";
const CONTENT_RANGE: HeaderName = HeaderName::from_static("content-range");
/// Larger blobs are read in parts of this size, each within its own attempt.
const LARGEST_PART: u64 = 4 << 20;
/// The emulator answers a read of one byte of an empty blob with a range that no one can read.
const LEAST_PART: u64 = 2;
/// Room for an error's body, however small the limit.
const LEAST_LIMIT: usize = 64 << 10;
const MAX_LISTED: usize = 100_000;

/// A blob of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobEntry {
    /// The name in its container, `/` included.
    pub name: String,
    /// The stored size in bytes.
    pub size: u64,
    /// True while somebody holds a lease on it.
    pub leased: bool,
}

pub(super) struct BlobService {
    caller: Caller,
    client: BlobServiceClient,
}

impl std::fmt::Debug for BlobService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobService").finish_non_exhaustive()
    }
}

impl BlobService {
    pub(super) fn new(caller: Caller) -> Result<BlobService, StorageError> {
        let options = BlobServiceClientOptions { client_options: caller.client_options(), version: VERSION.to_owned() };
        let client = BlobServiceClient::new(caller.url().clone(), None, Some(options))
            .map_err(|error| caller.call("blob.connect", "the account").origin.error(error))?;
        Ok(BlobService { caller, client })
    }

    pub(super) fn container(self: &Arc<Self>, name: &str) -> Container {
        Container { service: self.clone(), name: name.to_owned() }
    }
}

/// A blob container. Clones are cheap; it need not exist: then calls fail with `ContainerNotFound`.
#[derive(Clone, Debug)]
pub struct Container {
    service: Arc<BlobService>,
    name: String,
}

impl Container {
    /// The container's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the container, not open to the public; `false` if it was there.
    ///
    /// # Errors
    /// Those of any call; `BeingDeleted` for about a minute after a delete.
    pub async fn create_if_missing(&self) -> Result<bool, StorageError> {
        let (call, client) = self.begin("blob.create_container")?;
        let options = BlobContainerClientCreateOptions { method_options: call.options(), ..BlobContainerClientCreateOptions::default() };
        match call.run(client.create(Some(options))).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes the container and its blobs; `false` if it was not there.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn delete_container(&self) -> Result<bool, StorageError> {
        let (call, client) = self.begin("blob.delete_container")?;
        let options = BlobContainerClientDeleteOptions { method_options: call.options(), ..BlobContainerClientDeleteOptions::default() };
        match call.run(client.delete(Some(options))).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends the lease on the container at once; `false` if it has none, or is not there.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn break_lease(&self) -> Result<bool, StorageError> {
        let (call, client) = self.begin("blob.break_lease")?;
        let options = BlobContainerClientBreakLeaseOptions {
            break_period: Some(0),
            method_options: call.options(),
            ..BlobContainerClientBreakLeaseOptions::default()
        };
        match call.run(client.break_lease(Some(options))).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() || error.code() == Some("LeaseNotPresentWithLeaseOperation") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads a blob of at most `limit` bytes, as stored; `None` if it is not there.
    ///
    /// # Errors
    /// `TooLarge` if the blob is larger, of which then at most one part was read; `ContainerNotFound`.
    pub async fn get(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StorageError> {
        let (call, client) = self.begin("blob.get")?;
        check_name(&call, name)?;
        let part = usize::try_from(limit.clamp(LEAST_PART, LARGEST_PART)).unwrap_or(RESPONSE_LIMIT);
        let call = call.limit(part.max(LEAST_LIMIT));
        let options = BlobClientDownloadOptions {
            parallel: Some(NonZero::<usize>::MIN),
            partition_size: NonZero::new(part),
            method_options: call.options(),
            ..BlobClientDownloadOptions::default()
        };
        let blob = client.blob_client(name);
        let read = async {
            let download = blob.download(Some(options)).await?;
            if download.properties.blob_type.is_none() {
                return Ok(Read::NoBlob);
            }
            let size = download.headers.get_optional_str(&CONTENT_RANGE).and_then(|range| range.rsplit('/').next()?.parse().ok());
            if size.or(download.properties.content_length).is_some_and(|size| size > limit) {
                return Ok(Read::TooLarge);
            }
            download.body.collect().await.map(|bytes| Read::Bytes(bytes.into()))
        };
        match call.run(read).await {
            Ok(Read::Bytes(bytes)) if bytes.len() as u64 <= limit => Ok(Some(bytes)),
            Ok(Read::NoBlob) => Err(call.origin.unexpected("the answer is not a blob")),
            Ok(_) => Err(call.origin.failed(Failure::TooLarge(limit))),
            Err(error) if error.kind() == StorageErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a whole blob; `false` if it was there and is not to be overwritten.
    ///
    /// # Errors
    /// `ContainerNotFound` if the container is not there.
    pub async fn put(&self, name: &str, bytes: Vec<u8>, overwrite: bool) -> Result<bool, StorageError> {
        let (call, client) = self.begin("blob.put")?;
        check_name(&call, name)?;
        let options = BlobClientUploadOptions {
            if_none_match: (!overwrite).then(|| Etag::from("*")),
            partition_size: NonZero::new(LARGEST_PART),
            parallel: Some(NonZero::<usize>::MIN),
            method_options: call.options(),
            ..BlobClientUploadOptions::default()
        };
        match call.run(client.blob_client(name).upload(RequestContent::from(bytes), Some(options))).await {
            Ok(_) => Ok(true),
            Err(error) if !overwrite && (error.is_already_exists() || error.is_precondition_failed()) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All blobs whose name begins with `prefix`, in the order of their names.
    ///
    /// # Errors
    /// `ContainerNotFound`; `InvalidInput` beyond 100,000 blobs.
    pub async fn list(&self, prefix: &str) -> Result<Vec<BlobEntry>, StorageError> {
        let (call, client) = self.begin("blob.list")?;
        let options = BlobContainerClientListBlobsOptions {
            prefix: (!prefix.is_empty()).then(|| prefix.to_owned()),
            method_options: call.pager_options(),
            ..BlobContainerClientListBlobsOptions::default()
        };
        let mut pages = client.list_blobs(Some(options)).map_err(|error| call.origin.error(error))?.into_pages();
        let mut entries = Vec::new();
        while let Some(page) = call.run(pages.try_next()).await? {
            let page = call.model(page, "<EnumerationResults")?;
            for item in page.blob_items {
                let properties = item.properties.unwrap_or_default();
                let size = properties.content_length.unwrap_or_default();
                let leased = matches!(properties.lease_state, Some(LeaseState::Leased | LeaseState::Breaking));
                entries.extend(item.name.map(|name| BlobEntry { name, size, leased }));
            }
            if entries.len() > MAX_LISTED {
                return Err(call.origin.invalid("more than 100,000 blobs begin with this prefix"));
            }
        }
        Ok(entries)
    }

    /// Deletes a blob; `false` if it was not there.
    ///
    /// # Errors
    /// `ContainerNotFound` if the container is not there.
    pub async fn delete(&self, name: &str) -> Result<bool, StorageError> {
        let (call, client) = self.begin("blob.delete")?;
        check_name(&call, name)?;
        let options = BlobClientDeleteOptions { method_options: call.options(), ..BlobClientDeleteOptions::default() };
        match call.run(client.blob_client(name).delete(Some(options))).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == StorageErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn begin(&self, operation: &'static str) -> Result<(Call, BlobContainerClient), StorageError> {
        let call = self.service.caller.call(operation, &self.name);
        if !is_container_name(&self.name) {
            return Err(call.origin.invalid("this cannot be a container's name: 3 to 63 lower-case letters, digits and hyphens"));
        }
        Ok((call, self.service.client.blob_container_client(&self.name)))
    }
}

/// What a download turned out to be.
enum Read {
    Bytes(Vec<u8>),
    TooLarge,
    /// A success, but of some other server.
    NoBlob,
}

/// The URL library drops these names, and tabs and line ends in any: the request would go to something else.
fn check_name(call: &Call, name: &str) -> Result<(), StorageError> {
    let valid = !matches!(name, "" | "." | "..") && name.encode_utf16().count() <= 1024 && !name.chars().any(char::is_control);
    if valid { Ok(()) } else { Err(call.origin.invalid("this cannot be a blob's name")) }
}
