//! Our client for the table service, as there is no official crate for it.
//!
//! Owns the REST dialect: URLs of entities, headers, pages, transactions. Sends through the
//! pipeline of `azure_core`, so that retries, signatures and time-outs are those of queues and
//! blobs. Knows no table and no column by name.
//!
//! Keys come in as they are: they are quoted and percent-encoded here, and nowhere else
//! (task-hub.md 4.1 escapes what the service cannot hold, above this layer).

mod batch;
mod entity;

use std::sync::Arc;
use std::time::SystemTime;

use azure_core::http::headers::{CONTENT_TYPE, ETAG, HeaderName};
use azure_core::http::{Method, Pipeline, PipelineSendOptions, RawResponse, Request, Url};
use azure_core::time::parse_rfc7231;
use serde_json::Value as Json;

pub use batch::Operation;
pub use entity::{ETag, Entity, Value};

use super::error::{Failure, StorageError};
use super::pipeline::{Call, Caller};
use crate::Time;

/// Has all that is used here, and is old enough for sovereign clouds and older stamps.
const VERSION: &str = "2019-02-02";
const DATE: HeaderName = HeaderName::from_static("date");
const NEXT_PARTITION: HeaderName = HeaderName::from_static("x-ms-continuation-nextpartitionkey");
const NEXT_ROW: HeaderName = HeaderName::from_static("x-ms-continuation-nextrowkey");

/// Which version of a row a write is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Any, or none: the row is made if it is not there.
    Upsert,
    /// Any, but the row must be there.
    Any,
    /// This one alone.
    Match(ETag),
}

impl Condition {
    fn if_match(&self) -> Option<&str> {
        match self {
            Condition::Upsert => None,
            Condition::Any => Some("*"),
            Condition::Match(ETag(etag)) => Some(etag),
        }
    }
}

/// Which rows to read. The default reads all rows with all columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// An OData filter; texts in it go through [`quote`].
    pub filter: Option<String>,
    /// The columns to read, all if empty; keys are always read.
    pub select: Vec<String>,
    /// The most rows of one page; the service gives at most 1,000.
    pub top: Option<u32>,
    /// Where the page before ended.
    pub continuation: Option<Continuation>,
}

/// Where a page ended: what the service said in two headers, whose meaning is its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuation {
    partition_key: String,
    row_key: Option<String>,
}

impl Continuation {
    /// The place after the page whose answer had these two headers.
    pub fn new(partition_key: String, row_key: Option<String>) -> Continuation {
        Continuation { partition_key, row_key }
    }

    /// The two headers of the service.
    pub fn keys(&self) -> (&str, Option<&str>) {
        (&self.partition_key, self.row_key.as_deref())
    }
}

/// Some of a query's rows. A page can be empty and still have a continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The rows, ordered by their keys.
    pub entities: Vec<Entity>,
    /// `None` on the last page.
    pub continuation: Option<Continuation>,
    /// When the service answered, by its clock, to the second.
    pub date: Option<Time>,
}

/// A text as an OData literal: `it's` becomes `'it''s'`.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The clients of all tables: one pipeline.
#[derive(Debug)]
pub(super) struct TableService {
    caller: Caller,
    pipeline: Pipeline,
}

impl TableService {
    pub(super) fn new(caller: Caller) -> TableService {
        let name = Some(env!("CARGO_PKG_NAME"));
        let version = Some(env!("CARGO_PKG_VERSION"));
        let pipeline = Pipeline::new(name, version, caller.client_options(), Vec::new(), Vec::new(), None);
        TableService { caller, pipeline }
    }

    pub(super) fn table(self: &Arc<Self>, name: &str) -> Table {
        Table { service: self.clone(), name: name.to_owned() }
    }

    fn url(&self, segment: &str) -> Url {
        let mut url = self.caller.url().clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push(segment);
        }
        url
    }

    async fn send(&self, call: &Call, request: &mut Request) -> Result<RawResponse, StorageError> {
        request.insert_header("x-ms-version", VERSION);
        request.insert_header("dataserviceversion", "3.0");
        request.insert_header("maxdataserviceversion", "3.0;NetFx");
        if !request.headers().iter().any(|(name, _)| name.as_str() == "accept") {
            request.insert_header("accept", "application/json;odata=minimalmetadata");
        }
        let context = call.context();
        // Expected refusals (404, 409, 412) are read here from the status: an error of the crate costs more.
        let options = PipelineSendOptions { skip_checks: true, ..PipelineSendOptions::default() };
        let response = call.run(self.pipeline.send(&context, request, Some(options))).await?;
        let status = u16::from(response.status());
        // No other success: a proxy's login page must not pass for a row that was written.
        let expected: &[u16] = match request.method() {
            Method::Get => &[200],
            _ => &[201, 202, 204],
        };
        if expected.contains(&status) {
            Ok(response)
        } else {
            Err(call.origin.failed(Failure::of_response(status, response.headers(), response.body())))
        }
    }
}

/// A table. Clones are cheap; it need not exist.
#[derive(Clone, Debug)]
pub struct Table {
    service: Arc<TableService>,
    name: String,
}

impl Table {
    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the table; `false` if it was there.
    ///
    /// # Errors
    /// Those of any call; `BeingDeleted` for about a minute after a delete.
    pub async fn create_if_missing(&self) -> Result<bool, StorageError> {
        let call = self.call("table.create_table")?;
        let mut request = json_request(self.service.url("Tables"), Method::Post, &serde_json::json!({ "TableName": self.name }));
        request.insert_header("prefer", "return-no-content");
        match self.service.send(&call, &mut request).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes the table; `false` if it was not there.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn delete_table(&self) -> Result<bool, StorageError> {
        let call = self.call("table.delete_table")?;
        let mut request = Request::new(self.service.url(&format!("Tables({})", quote(&self.name))), Method::Delete);
        found(self.service.send(&call, &mut request).await)
    }

    /// Inserts a row.
    ///
    /// # Errors
    /// `AlreadyExists` if there is such a row; after a broken connection that may be this call's own.
    pub async fn insert(&self, entity: &Entity) -> Result<ETag, StorageError> {
        let call = self.call("table.insert")?;
        check_keys(&call, &entity.partition_key, &entity.row_key)?;
        let mut request = json_request(self.service.url(&self.name), Method::Post, &entity.to_json());
        request.insert_header("prefer", "return-no-content");
        let response = self.service.send(&call, &mut request).await?;
        etag(&call, &response)
    }

    /// Reads a row, or of it the columns of `select` if there are any; `None` if it is not there.
    ///
    /// # Errors
    /// `ContainerNotFound` if the table is not there.
    pub async fn get(&self, partition_key: &str, row_key: &str, select: &[&str]) -> Result<Option<Entity>, StorageError> {
        let call = self.call("table.get")?;
        let mut url = self.entity_url(&call, partition_key, row_key)?;
        if !select.is_empty() {
            set_query(&mut url, &[("$select", select.join(","))]);
        }
        let mut request = Request::new(url, Method::Get);
        let response = match self.service.send(&call, &mut request).await {
            Ok(response) => response,
            Err(error) if error.is_not_found() && !error.is_container_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let json = serde_json::from_slice::<Json>(response.body()).ok().and_then(Entity::from_json);
        let mut entity = json.ok_or_else(|| call.origin.unexpected("the answer is not an entity"))?;
        partition_key.clone_into(&mut entity.partition_key);
        row_key.clone_into(&mut entity.row_key);
        if entity.etag.is_none() {
            entity.etag = Some(etag(&call, &response)?);
        }
        Ok(Some(entity))
    }

    /// Sets the columns that the entity has, and leaves the row's others.
    ///
    /// # Errors
    /// `NotFound` or `PreconditionFailed` by the condition.
    pub async fn merge(&self, entity: &Entity, condition: Condition) -> Result<ETag, StorageError> {
        self.write("table.merge", Method::Patch, entity, &condition).await
    }

    /// Sets the columns that the entity has, and removes the row's others.
    ///
    /// # Errors
    /// `NotFound` or `PreconditionFailed` by the condition.
    pub async fn replace(&self, entity: &Entity, condition: Condition) -> Result<ETag, StorageError> {
        self.write("table.replace", Method::Put, entity, &condition).await
    }

    async fn write(&self, operation: &'static str, method: Method, entity: &Entity, condition: &Condition) -> Result<ETag, StorageError> {
        let call = self.call(operation)?;
        let url = self.entity_url(&call, &entity.partition_key, &entity.row_key)?;
        let mut request = json_request(url, method, &entity.to_json());
        if let Some(etag) = condition.if_match() {
            request.insert_header("if-match", etag.to_owned());
        }
        let response = self.service.send(&call, &mut request).await?;
        etag(&call, &response)
    }

    /// Removes a row; `false` if it was not there. [`Condition::Upsert`] counts as [`Condition::Any`].
    ///
    /// # Errors
    /// `PreconditionFailed` by the condition; `ContainerNotFound` if the table is not there.
    pub async fn delete(&self, partition_key: &str, row_key: &str, condition: Condition) -> Result<bool, StorageError> {
        let call = self.call("table.delete")?;
        let mut request = Request::new(self.entity_url(&call, partition_key, row_key)?, Method::Delete);
        request.insert_header("if-match", condition.if_match().unwrap_or("*").to_owned());
        match self.service.send(&call, &mut request).await {
            Err(error) if error.is_container_not_found() => Err(error),
            result => found(result),
        }
    }

    /// Reads one page of the rows that a query finds.
    ///
    /// # Errors
    /// `ContainerNotFound` if the table is not there; `InvalidInput` for a filter that is none.
    pub async fn query(&self, query: &Query) -> Result<Page, StorageError> {
        let call = self.call("table.query")?;
        let mut pairs = Vec::new();
        if let Some(filter) = &query.filter {
            pairs.push(("$filter", filter.clone()));
        }
        if !query.select.is_empty() {
            let keys = ["PartitionKey", "RowKey"].into_iter().filter(|key| !query.select.iter().any(|name| name == key));
            let names: Vec<&str> = keys.chain(query.select.iter().map(String::as_str)).collect();
            pairs.push(("$select", names.join(",")));
        }
        if let Some(top) = query.top {
            pairs.push(("$top", top.to_string()));
        }
        if let Some(Continuation { partition_key, row_key }) = &query.continuation {
            pairs.push(("NextPartitionKey", partition_key.clone()));
            pairs.extend(row_key.clone().map(|row_key| ("NextRowKey", row_key)));
        }
        let mut url = self.service.url(&format!("{}()", self.name));
        set_query(&mut url, &pairs);
        let response = self.service.send(&call, &mut Request::new(url, Method::Get)).await?;

        #[derive(serde::Deserialize)]
        struct Body {
            value: Vec<Json>,
        }
        let body: Body =
            serde_json::from_slice(response.body()).map_err(|_| call.origin.unexpected("the answer is not a list of entities"))?;
        let entities: Option<Vec<Entity>> = body.value.into_iter().map(Entity::from_json).collect();
        let headers = response.headers();
        Ok(Page {
            entities: entities.ok_or_else(|| call.origin.unexpected("the answer is not a list of entities"))?,
            continuation: headers
                .get_optional_string(&NEXT_PARTITION)
                .map(|partition_key| Continuation { partition_key, row_key: headers.get_optional_string(&NEXT_ROW) }),
            date: headers.get_optional_str(&DATE).and_then(|date| parse_rfc7231(date).ok()).map(|date| SystemTime::from(date).into()),
        })
    }

    /// Applies all operations or none; each returns the row's new version, a delete nothing.
    ///
    /// All rows are of one partition, and each row occurs once.
    ///
    /// # Errors
    /// `InvalidInput` or `TooLarge` before anything is sent: over 100 operations, over 4 MiB, several partitions.
    /// Else the kind of the operation that failed, whose index is [`StorageError::failed_operation`].
    pub async fn transaction(&self, operations: &[Operation]) -> Result<Vec<Option<ETag>>, StorageError> {
        let call = self.call("table.transaction")?;
        let Some(first) = operations.first() else { return Ok(Vec::new()) };
        if operations.len() > batch::MAX_OPERATIONS {
            return Err(call.origin.invalid("more than 100 operations in one transaction: split them"));
        }
        if operations.iter().any(|operation| operation.keys().0 != first.keys().0) {
            return Err(call.origin.invalid("the operations of a transaction are of several partitions: split them"));
        }
        // The ETags go into the body as they are.
        if operations.iter().filter_map(Operation::if_match).any(|etag| etag.chars().any(char::is_control)) {
            return Err(call.origin.invalid("an ETag holds a control character"));
        }
        let mut parts = Vec::with_capacity(operations.len());
        for operation in operations {
            let (partition_key, row_key) = operation.keys();
            let url = match operation {
                Operation::Insert(_) => check_keys(&call, partition_key, row_key).map(|()| self.service.url(&self.name)),
                _ => self.entity_url(&call, partition_key, row_key),
            };
            parts.push(batch::Part { operation, url: url? });
        }
        let id = uuid::Uuid::new_v4().to_string();
        let body = batch::body(&parts, &id);
        if body.len() > batch::MAX_BYTES {
            return Err(call.origin.failed(Failure::TooLarge(batch::MAX_BYTES as u64)));
        }
        let mut request = Request::new(self.service.url("$batch"), Method::Post);
        request.insert_header("content-type", format!("multipart/mixed; boundary=batch_{id}"));
        request.insert_header("accept", "multipart/mixed");
        request.set_body(body);
        let response = self.service.send(&call, &mut request).await?;

        let content_type = response.headers().get_optional_str(&CONTENT_TYPE).unwrap_or_default();
        let answers = batch::answers(content_type, &String::from_utf8_lossy(response.body()));
        if let Some(failed) = answers.iter().position(|answer| !(200..300).contains(&answer.status)) {
            let answer = &answers[failed];
            let index = answer.failed_operation().or_else(|| (answers.len() == operations.len()).then_some(failed));
            let failure = Failure::of_answer(answer.status, answer.code.clone(), answer.body.as_bytes());
            return Err(call.origin.failed(failure).with_failed_operation(index.filter(|index| *index < operations.len())));
        }
        if answers.len() != operations.len() {
            return Err(call.origin.unexpected("the number of answers is not the number of operations"));
        }
        Ok(answers.into_iter().map(|answer| answer.etag).collect())
    }

    fn call(&self, operation: &'static str) -> Result<Call, StorageError> {
        let call = self.service.caller.call(operation, &self.name);
        let valid = (3..=63).contains(&self.name.len())
            && self.name.bytes().all(|byte| byte.is_ascii_alphanumeric())
            && self.name.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
        if valid { Ok(call) } else { Err(call.origin.invalid("this cannot be a table's name: 3 to 63 letters and digits")) }
    }

    fn entity_url(&self, call: &Call, partition_key: &str, row_key: &str) -> Result<Url, StorageError> {
        check_keys(call, partition_key, row_key)?;
        Ok(self.service.url(&format!("{}(PartitionKey={},RowKey={})", self.name, quote(partition_key), quote(row_key))))
    }
}

/// The service refuses these characters, some with a 500 that is retried in vain; and the URL
/// library drops tabs and line ends without a word, which would address another row.
fn check_keys(call: &Call, partition_key: &str, row_key: &str) -> Result<(), StorageError> {
    let refused = |character: char| character.is_control() || matches!(character, '/' | '\\' | '#' | '?');
    if partition_key.chars().chain(row_key.chars()).any(refused) {
        return Err(call.origin.invalid("a key holds a character that keys cannot have: / \\ # ? or a control character"));
    }
    Ok(())
}

fn json_request(url: Url, method: Method, body: &Json) -> Request {
    let mut request = Request::new(url, method);
    request.insert_header("content-type", "application/json");
    request.set_body(body.to_string());
    request
}

/// Blanks as `%20`: a `+` is a blank in forms only, and not each service reads it so.
fn set_query(url: &mut Url, pairs: &[(&str, String)]) {
    url.set_query(None);
    if !pairs.is_empty() {
        url.query_pairs_mut().extend_pairs(pairs);
        let query = url.query().map(|query| query.replace('+', "%20"));
        url.set_query(query.as_deref());
    }
}

fn etag(call: &Call, response: &RawResponse) -> Result<ETag, StorageError> {
    let etag = response.headers().get_optional_string(&ETAG);
    etag.map(ETag).ok_or_else(|| call.origin.unexpected("the answer has no ETag"))
}

fn found<T>(result: Result<T, StorageError>) -> Result<bool, StorageError> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}
