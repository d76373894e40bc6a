use std::path::Path;

use serde_json::Value;
use weirgate_models::ModelFiles;

use crate::TextError;

/// A tokenizer that says its limit is this or more says it has none (transformers writes 1e30).
const NO_LIMIT: f64 = 1e9;
/// Special tokens a template may name, as transformers passes them.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// `tokenizer_config.json`, or the file given in its place.
#[derive(Debug, Clone)]
pub struct TokenizerSettings {
    own: Value,
    /// Given by the operator: its template goes before the model's other sources.
    replaced: bool,
}

impl TokenizerSettings {
    /// Those of `files`, or in the file `replacement`.
    ///
    /// # Errors
    /// A file that cannot be read or is not JSON.
    pub fn read(files: &ModelFiles, replacement: Option<&Path>) -> Result<Self, TextError> {
        if let Some(path) = replacement {
            let file = path.display().to_string();
            let text = std::fs::read(path)
                .map_err(|error| TextError::File { file: file.clone(), message: error.to_string() })?;
            return Ok(Self { own: parse(&text, file)?, replaced: true });
        }
        Ok(Self { own: read_json(files, "tokenizer_config.json")?.unwrap_or(Value::Null), replaced: false })
    }

    /// A special token: a string, or an object with its `content`.
    pub fn token(&self, name: &str) -> Option<String> {
        let value = self.own.get(name)?;
        value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
    }

    /// Those that a template may name, `(name, token)`.
    pub fn special_tokens(&self) -> Vec<(String, String)> {
        SPECIAL_TOKENS.iter().filter_map(|name| Some(((*name).to_owned(), self.token(name)?))).collect()
    }

    /// How the model is asked for the text between two others.
    pub fn completion_template(&self) -> Option<&str> {
        self.own.get("completion_template")?.as_str()
    }

    /// `model_max_length` in tokens, if the tokenizer has a limit.
    pub fn max_length(&self) -> Option<usize> {
        let limit = self.own.get("model_max_length")?.as_f64();
        limit.filter(|n| *n >= 1.0 && *n < NO_LIMIT).map(|n| n as usize)
    }

    /// The model's templates: `chat_template.jinja` with its folder of others, else `chat_template.json`, else these
    /// settings, else `processor_config.json`. `(name, text)`; a single template has the name `default`.
    ///
    /// # Errors
    /// A file that cannot be read or is not JSON.
    pub fn templates(&self, files: &ModelFiles) -> Result<Vec<(String, String)>, TextError> {
        let own = named_templates(self.own.get("chat_template"));
        if self.replaced && !own.is_empty() {
            return Ok(own);
        }
        let mut templates = additional_templates(files)?;
        if let Some(bytes) = files.read("chat_template.jinja")? {
            templates.insert(0, ("default".to_owned(), String::from_utf8_lossy(&bytes).into_owned()));
        }
        if !templates.is_empty() {
            return Ok(templates);
        }
        let of_file = |name: &str| -> Result<_, TextError> {
            Ok(named_templates(read_json(files, name)?.unwrap_or(Value::Null).get("chat_template")))
        };
        let templates = of_file("chat_template.json")?;
        match (templates.is_empty(), own.is_empty()) {
            (false, _) => Ok(templates),
            (true, false) => Ok(own),
            (true, true) => of_file("processor_config.json"),
        }
    }
}

/// The folder in which transformers keeps a model's templates other than the default one, each named as its file.
fn additional_templates(files: &ModelFiles) -> Result<Vec<(String, String)>, TextError> {
    const FOLDER: &str = "additional_chat_templates";
    let Some(folder) = files.folder().map(|folder| folder.join(FOLDER)).filter(|folder| folder.is_dir())
    else {
        return Ok(Vec::new());
    };
    let others = ModelFiles::open(&folder)?;
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .map_err(|error| TextError::File { file: folder.display().to_string(), message: error.to_string() })?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".jinja"))
        .collect();
    names.sort_unstable();
    let mut templates = Vec::new();
    for name in names {
        if let Some(bytes) = others.read(&name)? {
            templates.push((
                name.trim_end_matches(".jinja").to_owned(),
                String::from_utf8_lossy(&bytes).into_owned(),
            ));
        }
    }
    Ok(templates)
}

/// One template, or a list of `{"name", "template"}`.
fn named_templates(value: Option<&Value>) -> Vec<(String, String)> {
    match value {
        Some(Value::String(text)) => vec![("default".to_owned(), text.clone())],
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|entry| {
                let text = |key: &str| entry.get(key)?.as_str().map(str::to_owned);
                Some((text("name")?, text("template")?))
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn read_json(files: &ModelFiles, name: &str) -> Result<Option<Value>, TextError> {
    match files.read(name)? {
        Some(bytes) => Ok(Some(parse(&bytes, format!("{name} of {}", files.label()))?)),
        None => Ok(None),
    }
}

fn parse(text: &[u8], file: String) -> Result<Value, TextError> {
    serde_json::from_slice(text)
        .map_err(|error| TextError::File { file, message: format!("is not JSON: {error}") })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_come_as_a_string_or_a_named_list() {
        let named = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(named_templates(Some(&json!("x"))), [named("default", "x")]);
        let list = json!([{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}, {"name": "c"}]);
        assert_eq!(named_templates(Some(&list)), [named("default", "a"), named("tool_use", "b")]);
        assert!(named_templates(None).is_empty());
    }

    #[test]
    fn special_tokens_are_strings_or_objects() {
        let own =
            json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null});
        let settings = TokenizerSettings { own, replaced: false };
        assert_eq!(
            settings.special_tokens(),
            [("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())]
        );
    }

    #[test]
    fn the_jinja_file_wins_over_json_and_settings() {
        let own = json!({"chat_template": "settings"});
        let settings = TokenizerSettings { own: own.clone(), replaced: false };
        let text = |settings: &TokenizerSettings, files: &ModelFiles| {
            settings.templates(files).unwrap()[0].1.clone()
        };
        let all = ModelFiles::embedded(&[
            ("chat_template.jinja", b"jinja"),
            ("chat_template.json", br#"{"chat_template": "json"}"#),
        ]);
        let json_only = ModelFiles::embedded(&[("chat_template.json", br#"{"chat_template": "json"}"#)]);
        assert_eq!(text(&settings, &all), "jinja");
        assert_eq!(text(&settings, &json_only), "json");
        assert_eq!(text(&settings, &ModelFiles::embedded(&[])), "settings");
        let nothing = TokenizerSettings { own: Value::Null, replaced: false };
        let processor =
            ModelFiles::embedded(&[("processor_config.json", br#"{"chat_template": "processor"}"#)]);
        assert_eq!(text(&nothing, &processor), "processor");
        assert_eq!(text(&TokenizerSettings { own: own.clone(), replaced: false }, &processor), "settings");
        assert_eq!(text(&TokenizerSettings { own, replaced: true }, &all), "settings");
    }

    #[test]
    fn other_templates_lie_in_a_folder_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(folder.path().join(name), name).unwrap();
        std::fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
        for name in [
            "chat_template.jinja",
            "additional_chat_templates/tool_use.jinja",
            "additional_chat_templates/rag.jinja",
        ] {
            write(name);
        }
        write("additional_chat_templates/notes.txt");
        let settings = TokenizerSettings { own: json!({"chat_template": "settings"}), replaced: false };
        let found = settings.templates(&ModelFiles::open(folder.path()).unwrap()).unwrap();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["default", "rag", "tool_use"]);
        assert_eq!(found[2].1, "additional_chat_templates/tool_use.jinja");
    }
}
