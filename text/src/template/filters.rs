//! Filters that are not minijinja's own.

use std::sync::Arc;

use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, Value, ValueOrKwargs};
use minijinja::{Environment, Error, State, filters};

use super::json::indentation;
use super::methods::split_lines;

/// What `map`, `select` and their like give. In Jinja that is a generator: it can be run over, joined and listed, but
/// it has no length and no JSON.
#[derive(Debug)]
pub(super) struct Generator(Vec<Value>);

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Iter(Box::new(self.0.clone().into_iter()))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }
}

/// Replaces `indent`, and the filters that give generators.
pub(super) fn add_filters(environment: &mut Environment<'static>) {
    environment.add_filter("indent", indent);
    environment.add_filter("_map", filters::map);
    environment.add_filter("_select", filters::select);
    environment.add_filter("_reject", filters::reject);
    environment.add_filter("_selectattr", filters::selectattr);
    environment.add_filter("_rejectattr", filters::rejectattr);
    for (name, list) in [
        ("map", "_map"),
        ("select", "_select"),
        ("reject", "_reject"),
        ("selectattr", "_selectattr"),
        ("rejectattr", "_rejectattr"),
    ] {
        environment.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            generate(state, list, args)
        });
    }
}

fn generate(state: &mut State, list: &str, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let items = state.apply_filter(list, &args.into_values())?;
    Ok(Value::from_object(Generator(items.try_iter()?.collect())))
}

/// `indent(s, width=4, first=False, blank=False)`: the lines of `s` after the first one, and that one if asked, moved
/// right by a number of blanks or by a text.
fn indent(
    text: &str,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let width = width.map_or_else(|| kwargs.get("width"), |given| Ok(Some(given)))?;
    let first = first.map_or_else(|| kwargs.get("first"), |given| Ok(Some(given)))?.unwrap_or(false);
    let blank = blank.map_or_else(|| kwargs.get("blank"), |given| Ok(Some(given)))?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let margin = indentation(&width.unwrap_or(Value::from(4)))?;
    // The line break makes text that ends in one have an empty last line, as in Jinja.
    let text = format!("{text}\n");
    let mut out = String::new();
    for (at, line) in split_lines(&text, false).into_iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        if if at == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&margin);
        }
        out.push_str(line);
    }
    Ok(out)
}
