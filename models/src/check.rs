use crate::{LayerTensors, ModelError, ModelSpec, TensorSource};

impl ModelSpec {
    /// Every tensor the architecture needs, with the shape the configuration implies.
    pub fn tensor_shapes(&self) -> Vec<(&str, Vec<usize>)> {
        let names = &self.tensors;
        let table = vec![self.vocab_size, self.hidden_size];
        let mut shapes = vec![(names.embedding.as_str(), table.clone())];
        for layer in &names.layers {
            self.layer_shapes(layer, &mut shapes);
        }
        shapes.push((&names.final_norm, vec![self.hidden_size]));
        shapes.extend(names.head.as_deref().map(|head| (head, table)));
        shapes
    }

    fn layer_shapes<'a>(&self, layer: &'a LayerTensors, shapes: &mut Vec<(&'a str, Vec<usize>)>) {
        let hidden = self.hidden_size;
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let norms = [Some(&layer.attn_norm), layer.post_attn_norm.as_ref(), Some(&layer.ffn_norm)];
        for norm in norms.into_iter().flatten().chain(&layer.post_ffn_norm) {
            shapes.push((norm, vec![hidden]));
        }
        if let Some((q_norm, k_norm)) = &layer.qk_norm {
            shapes.push((q_norm, vec![self.head_dim]));
            shapes.push((k_norm, vec![self.head_dim]));
        }
        let gate_up = [self.intermediate_size; 2];
        stacked(&layer.qkv, &[q, kv, kv], Some(hidden), shapes);
        stacked(&layer.qkv_bias, &[q, kv, kv], None, shapes);
        stacked(&layer.gate_up, &gate_up, Some(hidden), shapes);
        stacked(&layer.gate_up_bias, &gate_up, None, shapes);
        shapes.push((&layer.output, vec![hidden, q]));
        shapes.push((&layer.down, vec![hidden, self.intermediate_size]));
        for bias in [&layer.output_bias, &layer.down_bias].into_iter().flatten() {
            shapes.push((bias, vec![hidden]));
        }
    }

    /// Checks that every tensor the architecture needs exists in the shape the configuration implies.
    ///
    /// # Errors
    /// The first tensor that is missing or has another shape; names its file, the expected and the found value.
    pub fn check_tensors(&self, tensors: &dyn TensorSource) -> Result<(), ModelError> {
        let error = |name: &str, message: String| ModelError::Tensor {
            file: tensors.file(name).into(),
            tensor: name.into(),
            message,
        };
        for (name, shape) in self.tensor_shapes() {
            let (_, found) = tensors.info(name)?;
            if found != shape {
                return Err(error(name, format!("has shape {found:?}, the configuration implies {shape:?}")));
            }
        }
        Ok(())
    }
}

/// Parts stacked by rows: one tensor each for `rows`, or one for all of them. `cols` is `None` for vectors.
fn stacked<'a>(
    names: &'a [String],
    rows: &[usize],
    cols: Option<usize>,
    shapes: &mut Vec<(&'a str, Vec<usize>)>,
) {
    let shape = |rows: usize| [Some(rows), cols].into_iter().flatten().collect();
    match names {
        [fused] => shapes.push((fused, shape(rows.iter().sum()))),
        parts => shapes.extend(parts.iter().zip(rows).map(|(name, rows)| (name.as_str(), shape(*rows)))),
    }
}
