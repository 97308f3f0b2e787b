//! Status messages as the JSON that Go's encoder makes of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::{SolveStatus, Source, Translator, Vertex, VertexLog, VertexStatus, VertexWarning};
use crate::event::{Lines, Stream};

impl Translator {
    /// One line of `--progress=rawjson`, with its line feed.
    pub(crate) fn json_line(&self, status: &SolveStatus) -> String {
        let mut object = Map::new();
        let mut list = |key: &str, values: Vec<Value>| {
            if !values.is_empty() {
                object.insert(key.to_owned(), Value::Array(values));
            }
        };
        list("vertexes", status.vertexes.iter().map(|vertex| self.vertex(vertex)).collect());
        list("statuses", status.statuses.iter().map(|status| self.status(status)).collect());
        list("logs", status.logs.iter().map(|log| self.log(log)).collect());
        list("warnings", status.warnings.iter().map(|warning| self.warning(warning)).collect());
        let mut line = go_escape(&Value::Object(object).to_string());
        line.push('\n');
        line
    }

    fn vertex(&self, vertex: &Vertex) -> Value {
        let mut object = Map::new();
        object.insert("digest".into(), json!(vertex.digest));
        if !vertex.inputs.is_empty() {
            object.insert("inputs".into(), json!(vertex.inputs));
        }
        object.insert("name".into(), json!(vertex.name));
        self.times(&mut object, vertex.started, vertex.completed);
        if vertex.cached {
            object.insert("cached".into(), json!(true));
        }
        if !vertex.error.is_empty() {
            object.insert("error".into(), json!(vertex.error));
        }
        Value::Object(object)
    }

    fn status(&self, status: &VertexStatus) -> Value {
        let mut object = Map::new();
        object.insert("id".into(), json!(status.id));
        object.insert("vertex".into(), json!(status.vertex));
        if !status.name.is_empty() {
            object.insert("name".into(), json!(status.name));
        }
        if status.total != 0 {
            object.insert("total".into(), json!(status.total));
        }
        object.insert("current".into(), json!(status.current));
        object.insert("timestamp".into(), json!(self.time(status.timestamp)));
        self.times(&mut object, Some(status.started), status.completed);
        Value::Object(object)
    }

    fn log(&self, log: &VertexLog) -> Value {
        let stream = match log.stream {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        };
        let (data, timestamp) = (base64(&log.data), self.time(log.timestamp));
        json!({"vertex": log.vertex, "stream": stream, "data": data, "timestamp": timestamp})
    }

    fn warning(&self, warning: &VertexWarning) -> Value {
        let mut object = Map::new();
        if let Some((_, digest)) = &warning.vertex {
            object.insert("vertex".into(), json!(digest));
        }
        object.insert("level".into(), json!(1));
        object.insert("short".into(), json!(base64(warning.short.as_bytes())));
        object.insert("detail".into(), json!([base64(warning.detail.as_bytes())]));
        if !warning.url.is_empty() {
            object.insert("url".into(), json!(warning.url));
        }
        if let (Some(source), Some(lines)) = (&self.dockerfile, warning.lines) {
            object.insert("sourceInfo".into(), source_info(source));
            object.insert("range".into(), ranges(lines, Some(source)));
        }
        Value::Object(object)
    }

    fn times(&self, object: &mut Map<String, Value>, started: Option<u64>, completed: Option<u64>) {
        for (key, at) in [("started", started), ("completed", completed)] {
            if let Some(at) = at {
                object.insert(key.into(), json!(self.time(at)));
            }
        }
    }

    /// Wall clock as Go writes it: RFC 3339, nanoseconds without zeros at their end.
    fn time(&self, at: u64) -> String {
        let unix = i128::from(self.unix_ns) + i128::from(at);
        let Ok(time) = OffsetDateTime::from_unix_timestamp_nanos(unix) else {
            return String::new();
        };
        let nanos = format!(".{:09}", time.nanosecond());
        let nanos = nanos.trim_end_matches('0').trim_end_matches('.');
        let (date, month) = (time.date(), u8::from(time.month()));
        let clock = format!("{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second());
        format!("{:04}-{month:02}-{:02}T{clock}{nanos}Z", date.year(), date.day())
    }
}

/// The Dockerfile. BuildKit's own also has a definition, of how the file came from its client.
pub(crate) fn source_info(source: &Source) -> Value {
    let mut object = Map::new();
    object.insert("filename".into(), json!(source.name));
    if !source.text.is_empty() {
        object.insert("data".into(), json!(base64(source.text.as_bytes())));
    }
    object.insert("language".into(), json!("Dockerfile"));
    Value::Object(object)
}

/// Lines as BuildKit has them: a range each, as far as the file goes.
pub(crate) fn ranges(lines: Lines, source: Option<&Source>) -> Value {
    let count = source.map_or(0, |source| source.text.split('\n').count());
    let furthest = lines.start.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    // Go leaves a zero out.
    let position = |line: u32| if line == 0 { json!({}) } else { json!({"line": line}) };
    let range = |line| json!({"start": position(line), "end": position(line)});
    (lines.start..=lines.end.clamp(lines.start, furthest)).map(range).collect()
}

/// Go's encoder also escapes what could end a script in HTML. These characters occur only inside of strings.
pub(crate) fn go_escape(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out
}

/// Standard Base64 with padding (RFC 4648, section 4).
fn base64(data: &[u8]) -> String {
    STANDARD.encode(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads() {
        for (data, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("hi\n", "aGkK"), ("err\n", "ZXJyCg==")]
        {
            assert_eq!(base64(data.as_bytes()), text);
        }
    }

    #[test]
    fn times_as_go_writes_them() {
        let mut translator = Translator::new(false);
        translator.unix_ns = 1_795_343_539_000_000_000;
        assert_eq!(translator.time(332_949_762), "2026-11-22T10:32:19.332949762Z");
        assert_eq!(translator.time(500_000_000), "2026-11-22T10:32:19.5Z");
        assert_eq!(translator.time(0), "2026-11-22T10:32:19Z");
    }
}
