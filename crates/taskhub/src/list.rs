//! Listing instances, page by page (task-hub.md 6.4).
//!
//! Owns filters as OData and continuation tokens as text. One request per page,
//! in the order of the escaped IDs; a page can be short or empty and still have
//! a token. Invariant: every text of the caller's goes into a filter quoted,
//! and no filter hides an instance that it should find: rows are not filtered
//! by `TaskHubName`, which engine 1.x does not write on sub-orchestrations.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::event::Tags;
use crate::hub::TaskHub;
use crate::instance::{Instance, RuntimeStatus};
use crate::names::escape_key;
use crate::query::STATUS_COLUMNS;
use crate::storage::{Continuation, Query, StorageError, quote};
use crate::time::Time;

/// The most instances of a page: what the table service gives at once.
pub const MAX_PAGE_SIZE: u32 = 1000;

/// The longest text in a filter, in UTF-16 code units: a URL has 32 KiB at most, and every character can take 9 bytes of it.
pub const MAX_FILTER_TEXT: usize = 512;

/// The longest continuation token, in bytes.
const MAX_TOKEN: usize = 8 * 1024;

/// Which instances. The default finds all but entities.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Created at this time or later. A continue-as-new sets the time anew (task-hub.md 10, 36).
    pub created_from: Option<Time>,
    /// Created at this time or earlier.
    pub created_to: Option<Time>,
    /// Last updated at this time or later.
    pub updated_from: Option<Time>,
    /// Last updated at this time or earlier.
    pub updated_to: Option<Time>,
    /// With one of these statuses; any if empty.
    pub statuses: Vec<RuntimeStatus>,
    /// With an ID that begins with this text.
    pub id_prefix: String,
    /// Of this function; by exact name.
    pub name: Option<String>,
    /// With all of these tags. Compared here, as the service cannot: pages get shorter.
    pub tags: Tags,
    /// Entities too; always found if the prefix begins with `@`.
    pub entities: bool,
}

/// What to read of the instances that a [`Filter`] finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListOptions {
    /// Which instances.
    pub filter: Filter,
    /// The most instances of one page, 1 to [`MAX_PAGE_SIZE`].
    pub page_size: u32,
    /// With inputs. Without, they are not even transferred.
    pub show_input: bool,
    /// Columns that the hub itself does not know, to be read with [`Instance::column`].
    pub columns: Vec<String>,
    /// The token of the page before.
    pub continuation: Option<String>,
}

impl Default for ListOptions {
    /// The extension's defaults: pages of 100, with inputs; but without entities.
    fn default() -> ListOptions {
        ListOptions { filter: Filter::default(), page_size: 100, show_input: true, columns: Vec::new(), continuation: None }
    }
}

/// Some of the instances.
#[derive(Debug, Clone)]
pub struct InstancePage {
    /// The instances, in the order of their escaped IDs.
    pub instances: Vec<Instance>,
    /// Token of the next page; none on the last one. Opaque, and good for the same filter alone.
    pub continuation: Option<String>,
}

/// Why a list cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// Not 1 to [`MAX_PAGE_SIZE`].
    #[error("the page size is {0}: it must be 1 to {MAX_PAGE_SIZE}")]
    PageSize(u32),
    /// A text or a list in the filter is too long to be sent.
    #[error("{0} of the filter is too long: at most {MAX_FILTER_TEXT} characters, or 32 tags or statuses")]
    TooLong(&'static str),
    /// A text that no client of a task hub made.
    #[error("the continuation token is not one that a list returned")]
    InvalidToken,
    /// The storage account did not answer as needed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl TaskHub {
    /// A page of instances. One request.
    ///
    /// # Errors
    /// [`ListError`].
    pub async fn list(&self, options: &ListOptions) -> Result<InstancePage, ListError> {
        if !(1..=MAX_PAGE_SIZE).contains(&options.page_size) {
            return Err(ListError::PageSize(options.page_size));
        }
        let continuation = options.continuation.as_deref().map(|text| from_token(text).ok_or(ListError::InvalidToken)).transpose()?;
        let input = ["Input", "InputBlobName"].into_iter().filter(|_| options.show_input);
        let own = options.columns.iter().map(String::as_str);
        let query = Query {
            filter: options.filter.to_odata()?,
            select: STATUS_COLUMNS.into_iter().chain(input).chain(own).map(str::to_owned).collect(),
            top: Some(options.page_size),
            continuation,
        };
        let page = self.instances().query(&query).await?;
        let instances = page.entities.into_iter().map(|row| self.instance(row)).filter(|instance| options.filter.has_tags(instance));
        Ok(InstancePage { instances: instances.collect(), continuation: page.continuation.as_ref().map(to_token) })
    }
}

impl Filter {
    /// The filter as OData, in the engine's order of conditions; none if it filters nothing.
    ///
    /// # Errors
    /// [`ListError::TooLong`].
    pub(crate) fn to_odata(&self) -> Result<Option<String>, ListError> {
        let short = |text: &str, what| if text.encode_utf16().count() > MAX_FILTER_TEXT { Err(ListError::TooLong(what)) } else { Ok(()) };
        short(&self.id_prefix, "the ID prefix")?;
        short(self.name.as_deref().unwrap_or_default(), "the function name")?;
        if self.statuses.len() > 32 || self.tags.len() > 32 {
            return Err(ListError::TooLong("the list of statuses or tags"));
        }
        let mut conditions = Vec::new();
        let times = [
            ("CreatedTime ge", self.created_from),
            ("CreatedTime le", self.created_to),
            ("LastUpdatedTime ge", self.updated_from),
            ("LastUpdatedTime le", self.updated_to),
        ];
        conditions.extend(times.iter().filter_map(|(left, time)| time.map(|time| format!("{left} datetime'{}'", time.to_table()))));
        if !self.statuses.is_empty() {
            let alternatives: Vec<String> = self.statuses.iter().map(|status| format!("RuntimeStatus eq '{}'", status.name())).collect();
            conditions.push(alternatives.join(" or "));
        }
        if let Some(name) = &self.name {
            conditions.push(format!("Name eq {}", quote(name)));
        }
        if !self.id_prefix.is_empty() {
            let prefix = escape_key(&self.id_prefix);
            conditions.push(format!("PartitionKey ge {}", quote(&prefix)));
            conditions.extend(upper_bound(&prefix).map(|bound| format!("PartitionKey lt {}", quote(&bound))));
        } else if !self.entities {
            conditions.push("PartitionKey lt '@' or PartitionKey ge 'A'".to_owned());
        }
        Ok(match conditions.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            many => Some(format!("({})", many.join(") and ("))),
        })
    }

    pub(crate) fn has_tags(&self, instance: &Instance) -> bool {
        let has = |tag: &(String, String)| instance.tags.contains(tag);
        self.tags.iter().all(has)
    }
}

/// The least text that is above every text that begins with `prefix`, by UTF-16 code units, as the service orders; none if there is none.
fn upper_bound(prefix: &str) -> Option<String> {
    let mut characters: Vec<char> = prefix.chars().collect();
    while let Some(last) = characters.pop() {
        // Surrogates, hence all characters beyond U+FFFF, sort between U+D7FF and U+E000.
        let next = match last {
            '\u{D7FF}' => Some('\u{10000}'),
            '\u{10FFFF}' => Some('\u{E000}'),
            '\u{FFFF}' => None,
            other => char::from_u32(u32::from(other) + 1),
        };
        if let Some(next) = next {
            characters.push(next);
            return Some(characters.into_iter().collect());
        }
    }
    None
}

/// The text that engine 2.x makes of the service's two headers.
pub(crate) fn to_token(continuation: &Continuation) -> String {
    let (partition_key, row_key) = continuation.keys();
    format!("{partition_key} {}", row_key.unwrap_or_default())
}

/// Reads the tokens of both engine lines: two headers with a blank between (2.x), Base64 of JSON (1.x).
pub(crate) fn from_token(token: &str) -> Option<Continuation> {
    if token.is_empty() || token.len() > MAX_TOKEN || token.chars().any(char::is_control) {
        return None;
    }
    // Blanks at the end get lost in headers; the service's own keys have none.
    let (partition_key, row_key) = match token.rsplit_once(' ') {
        Some((partition_key, row_key)) => (partition_key.to_owned(), row_key.to_owned()),
        None => match STANDARD.decode(token).ok().and_then(|json| serde_json::from_slice::<TokenOfLine1>(&json).ok()) {
            Some(TokenOfLine1 { partition_key, row_key }) => (partition_key, row_key.unwrap_or_default()),
            None => (token.to_owned(), String::new()),
        },
    };
    let row_key = Some(row_key).filter(|key| !key.is_empty());
    (!partition_key.trim().is_empty()).then(|| Continuation::new(partition_key, row_key))
}

#[derive(serde::Deserialize)]
struct TokenOfLine1 {
    #[serde(rename = "NextPartitionKey")]
    partition_key: String,
    #[serde(rename = "NextRowKey")]
    row_key: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn odata(filter: Filter) -> String {
        filter.to_odata().unwrap().unwrap_or_default()
    }

    #[test]
    fn filters_are_what_the_engine_sends() {
        let time = |text| Time::parse(text).ok();
        let filter = Filter {
            created_from: time("2018-01-10T10:10:10Z"),
            created_to: time("2018-01-10T12:10:50+02:00"),
            statuses: vec![RuntimeStatus::Running, RuntimeStatus::Completed],
            entities: true,
            ..Filter::default()
        };
        // The example of task-hub.md 6.4 without the hub's name.
        let expected = "(CreatedTime ge datetime'2018-01-10T10:10:10.0000000Z') and (CreatedTime le datetime'2018-01-10T10:10:50.0000000Z') \
                        and (RuntimeStatus eq 'Running' or RuntimeStatus eq 'Completed')";
        assert_eq!(odata(filter), expected);
        assert_eq!(odata(Filter { entities: true, ..Filter::default() }), "");
        assert_eq!(odata(Filter::default()), "PartitionKey lt '@' or PartitionKey ge 'A'");
    }

    #[test]
    fn texts_are_quoted_and_prefixes_escaped_once() {
        for (prefix, from, to) in [
            ("aaab", "aaab", "aaac"),
            ("@", "@", "A"),
            ("a/", "a^0", "a^1"),
            ("a^", "a^^", "a^_"),
            ("it's", "it''s", "it''t"),
            ("a&", "a&", "a''"),
            ("\t", "^É", "^Ê"),
        ] {
            let filter = Filter { id_prefix: prefix.to_owned(), ..Filter::default() };
            assert_eq!(odata(filter), format!("(PartitionKey ge '{from}') and (PartitionKey lt '{to}')"));
        }
        let name = Filter { name: Some("x' or 'a' eq 'a".to_owned()), entities: true, ..Filter::default() };
        assert_eq!(odata(name), "Name eq 'x'' or ''a'' eq ''a'");
        let long = Filter { id_prefix: "x".repeat(MAX_FILTER_TEXT + 1), ..Filter::default() };
        assert!(matches!(long.to_odata(), Err(ListError::TooLong(_))));
    }

    #[test]
    fn upper_bounds_hold_for_every_character() {
        let units = |text: &str| text.encode_utf16().collect::<Vec<u16>>();
        let samples: Vec<String> =
            ["", "0", "~", "é", "\u{D7FF}", "\u{E000}", "\u{FFFF}", "\u{10000}", "\u{10FFFF}"].map(str::to_owned).into();
        for last in (0..=0x10FFFF).step_by(7).chain([0xD7FF, 0xE000, 0xFFFE, 0xFFFF, 0x10000, 0x103FF, 0x10400, 0x10FFFE, 0x10FFFF]) {
            let Some(last) = char::from_u32(last) else { continue };
            let prefix = format!("a{last}");
            let bound = upper_bound(&prefix).unwrap();
            for sample in &samples {
                assert!(units(&format!("{prefix}{sample}")) < units(&bound), "{prefix:?}{sample:?} {bound:?}");
            }
            // Nothing lies between the last text with the prefix and the bound that is not one with the prefix.
            assert!(units(&prefix) < units(&bound) && !bound.starts_with(&prefix));
        }
        assert_eq!(upper_bound("\u{FFFF}"), None);
        assert_eq!(upper_bound("a\u{FFFF}"), Some("b".to_owned()));
    }

    #[test]
    fn tokens_of_both_lines_are_read() {
        let keys = |token: &str| from_token(token).map(|token| (token.keys().0.to_owned(), token.keys().1.map(str::to_owned)));
        assert_eq!(keys("bGktMg== "), Some(("bGktMg==".to_owned(), None)));
        assert_eq!(keys("1!8!bGktMg-- 1!4!AAAA"), Some(("1!8!bGktMg--".to_owned(), Some("1!4!AAAA".to_owned()))));
        let json = r#"{"NextPartitionKey":"1!8!bGktMg--","NextRowKey":"","NextTableName":null,"TargetLocation":0}"#;
        assert_eq!(keys(&STANDARD.encode(json)), Some(("1!8!bGktMg--".to_owned(), None)));
        // A proxy cut the blank off.
        assert_eq!(keys("bGktMg=="), Some(("bGktMg==".to_owned(), None)));
        for token in ["", " ", "a\nb c", &"x".repeat(MAX_TOKEN + 1)] {
            assert_eq!(keys(token), None, "{token:?}");
        }
        let token = Continuation::new("1!8!x".to_owned(), Some("1!4!y".to_owned()));
        assert_eq!(from_token(&to_token(&token)), Some(token));
    }
}
