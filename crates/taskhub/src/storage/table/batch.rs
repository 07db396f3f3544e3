//! Entity group transactions on the wire: one multipart request, one multipart answer.
//!
//! Owns the building and the reading of the bodies; sends nothing. The answer's outer status
//! is a success even when an operation failed, so that each inner status is read, and a
//! number of answers other than the number of operations is never taken for success.

use azure_core::http::Url;

use super::entity::{ETag, Entity};
use crate::storage::Condition;
use crate::storage::error::odata_error;

/// The service takes no more operations in one transaction.
pub(super) const MAX_OPERATIONS: usize = 100;
/// Nor a larger body: 4 MiB.
pub(super) const MAX_BYTES: usize = 4 << 20;

/// One write of a transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Fails if there is such a row.
    Insert(Entity),
    /// Sets the columns that the entity has, and leaves the others.
    Merge(Entity, Condition),
    /// Sets the columns that the entity has, and removes the others.
    Replace(Entity, Condition),
    /// Removes the row; a row that is not there fails the transaction.
    Delete {
        /// The row's partition.
        partition_key: String,
        /// The row's key.
        row_key: String,
        /// [`Condition::Upsert`] counts as [`Condition::Any`].
        condition: Condition,
    },
}

impl Operation {
    /// The condition's header, if it has one.
    pub(super) fn if_match(&self) -> Option<&str> {
        match self {
            Operation::Insert(_) => None,
            Operation::Merge(_, condition) | Operation::Replace(_, condition) => condition.if_match(),
            Operation::Delete { condition, .. } => Some(condition.if_match().unwrap_or("*")),
        }
    }

    pub(super) fn keys(&self) -> (&str, &str) {
        match self {
            Operation::Insert(entity) | Operation::Merge(entity, _) | Operation::Replace(entity, _) => {
                (&entity.partition_key, &entity.row_key)
            }
            Operation::Delete { partition_key, row_key, .. } => (partition_key, row_key),
        }
    }
}

/// One operation, with the URL that it goes to.
pub(super) struct Part<'a> {
    pub(super) operation: &'a Operation,
    pub(super) url: Url,
}

/// The body of the request, for the boundary `batch_{id}`.
pub(super) fn body(parts: &[Part<'_>], id: &str) -> String {
    let mut text = format!("--batch_{id}\r\nContent-Type: multipart/mixed; boundary=changeset_{id}\r\n\r\n");
    for Part { operation, url } in parts {
        text.push_str(&format!("--changeset_{id}\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n"));
        let (method, entity) = match operation {
            Operation::Insert(entity) => ("POST", Some(entity)),
            Operation::Merge(entity, _) => ("PATCH", Some(entity)),
            Operation::Replace(entity, _) => ("PUT", Some(entity)),
            Operation::Delete { .. } => ("DELETE", None),
        };
        text.push_str(&format!("{method} {url} HTTP/1.1\r\n"));
        text.push_str("Accept: application/json;odata=minimalmetadata\r\nDataServiceVersion: 3.0\r\n");
        if method == "POST" {
            text.push_str("Prefer: return-no-content\r\n");
        }
        if let Some(etag) = operation.if_match() {
            text.push_str(&format!("If-Match: {etag}\r\n"));
        }
        match entity {
            Some(entity) => text.push_str(&format!("Content-Type: application/json\r\n\r\n{}\r\n", entity.to_json())),
            None => text.push_str("\r\n"),
        }
    }
    text.push_str(&format!("--changeset_{id}--\r\n--batch_{id}--\r\n"));
    text
}

/// What the service says of one operation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) etag: Option<ETag>,
    pub(super) code: Option<String>,
    pub(super) body: String,
}

impl Answer {
    /// The index at the beginning of an error's message, as in `1:The specified resource does not exist.`
    pub(super) fn failed_operation(&self) -> Option<usize> {
        let (_, message) = odata_error(self.body.as_bytes());
        let message = message?;
        let (index, _) = message.split_once(':')?;
        index.trim().parse().ok()
    }
}

/// The answers of a response's body, in order; `content_type` names the boundary.
pub(super) fn answers(content_type: &str, body: &str) -> Vec<Answer> {
    let Some(boundary) = boundary(content_type) else { return Vec::new() };
    let mut answers = Vec::new();
    for part in parts(body, boundary) {
        let (head, content) = split_head(&part);
        // The changeset is nested; a failed one may come without it.
        match header(&head, "content-type").and_then(boundary_of_multipart) {
            Some(inner) => answers.extend(parts(&content, inner).iter().filter_map(|part| answer(split_head(part).1.as_str()))),
            None => answers.extend(answer(&content)),
        }
    }
    answers
}

fn answer(http: &str) -> Option<Answer> {
    let (head, body) = split_head(http.trim_start());
    let status = head.first()?.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    let etag = header(&head, "etag").map(|etag| ETag(etag.to_owned()));
    let code = header(&head, "x-ms-error-code").map(str::to_owned);
    Some(Answer { status, etag, code, body: body.trim().to_owned() })
}

/// The lines up to the first empty one, and the text after it.
fn split_head(text: &str) -> (Vec<String>, String) {
    let mut head = Vec::new();
    let mut rest = text;
    while let Some((line, after)) = rest.split_once('\n') {
        rest = after;
        let line = line.trim_end_matches('\r');
        if line.is_empty() {
            return (head, rest.to_owned());
        }
        head.push(line.to_owned());
    }
    if !rest.trim().is_empty() {
        head.push(rest.trim_end_matches('\r').to_owned());
    }
    (head, String::new())
}

fn header<'a>(head: &'a [String], name: &str) -> Option<&'a str> {
    head.iter()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// The parts between lines that are the boundary.
fn parts(text: &str, boundary: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.split_inclusive('\n') {
        match line.trim_end().strip_prefix("--").and_then(|line| line.strip_prefix(boundary)) {
            Some("") => {
                inside = true;
                parts.push(String::new());
            }
            Some("--") => break,
            _ if inside => {
                if let Some(part) = parts.last_mut() {
                    part.push_str(line);
                }
            }
            _ => {}
        }
    }
    parts
}

fn boundary_of_multipart(content_type: &str) -> Option<&str> {
    content_type.trim_start().to_ascii_lowercase().starts_with("multipart/").then(|| boundary(content_type)).flatten()
}

fn boundary(content_type: &str) -> Option<&str> {
    content_type.split(';').map(str::trim).filter_map(|part| part.split_once('=')).find_map(|(name, value)| {
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"')).filter(|value| !value.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_each_operation_with_its_condition_and_crlf() {
        let operations = [
            Operation::Insert(Entity::new("p", "a").with("N", 1)),
            Operation::Merge(Entity::new("p", "b"), Condition::Upsert),
            Operation::Replace(Entity::new("p", "c"), Condition::Match(ETag("W/\"1\"".to_owned()))),
            Operation::Delete { partition_key: "p".to_owned(), row_key: "d".to_owned(), condition: Condition::Upsert },
        ];
        let url: Url = "http://h/acc/Rows".parse().unwrap();
        let parts: Vec<Part<'_>> = operations.iter().map(|operation| Part { operation, url: url.clone() }).collect();
        let text = body(&parts, "id");
        let head = "Accept: application/json;odata=minimalmetadata\r\nDataServiceVersion: 3.0\r\n";
        let part = "--changeset_id\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n";
        let json = "Content-Type: application/json\r\n\r\n";
        let expected = format!(
            "--batch_id\r\nContent-Type: multipart/mixed; boundary=changeset_id\r\n\r\n\
             {part}POST http://h/acc/Rows HTTP/1.1\r\n{head}Prefer: return-no-content\r\n{json}{{\"PartitionKey\":\"p\",\"RowKey\":\"a\",\"N\":1}}\r\n\
             {part}PATCH http://h/acc/Rows HTTP/1.1\r\n{head}{json}{{\"PartitionKey\":\"p\",\"RowKey\":\"b\"}}\r\n\
             {part}PUT http://h/acc/Rows HTTP/1.1\r\n{head}If-Match: W/\"1\"\r\n{json}{{\"PartitionKey\":\"p\",\"RowKey\":\"c\"}}\r\n\
             {part}DELETE http://h/acc/Rows HTTP/1.1\r\n{head}If-Match: *\r\n\r\n\
             --changeset_id--\r\n--batch_id--\r\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn each_inner_answer_is_read() {
        let text = "--b1\r\nContent-Type: multipart/mixed; boundary=\"c1\"\r\n\r\n\
            --c1\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 204 No Content\r\nETag: W/\"1\"\r\n\r\n\r\n\
            --c1\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n--c1--\r\n--b1--\r\n";
        let answers = answers("multipart/mixed; boundary=b1", text);
        assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [204, 204]);
        assert_eq!(answers[0].etag, Some(ETag("W/\"1\"".to_owned())));
        assert_eq!(answers[1].etag, None);
    }

    #[test]
    fn the_index_of_a_failure_is_in_its_message() {
        let json = r#"{"odata.error":{"code":"InvalidDuplicateRow","message":{"lang":"en-US","value":"12:The batch\nHTTP/1.1 200 OK"}}}"#;
        for text in [
            format!(
                "--b\nContent-Type: multipart/mixed; boundary=c\n\n--c\nContent-Type: application/http\n\nHTTP/1.1 400 Bad\nx: y\n\n{json}\n--c--\n--b--"
            ),
            format!("--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 400 Bad\r\nx: y\r\n\r\n{json}\r\n--b--\r\n"),
        ] {
            let answers = answers("Multipart/Mixed; charset=utf-8; Boundary=b", &text);
            assert_eq!((answers.len(), answers[0].status, answers[0].failed_operation()), (1, 400, Some(12)));
        }
        let without = Answer { status: 400, etag: None, code: None, body: "1:x".to_owned() };
        assert_eq!(without.failed_operation(), None);
    }

    #[test]
    fn what_is_no_answer_gives_none() {
        assert_eq!(answers("text/html", "<html>"), []);
        assert_eq!(answers("multipart/mixed; boundary=b", ""), []);
        assert_eq!(answers("multipart/mixed; boundary=b", "--b\r\n--b--"), []);
        assert_eq!(answers("multipart/mixed; boundary=", "--\r\nHTTP/1.1 204 x\r\n"), []);
    }
}
