use crate::{DType, LayerTensors, ModelError, ModelSpec, TensorNames, TensorSource};

impl ModelSpec {
    /// Checks that every tensor the architecture needs exists in the shape the configuration implies.
    ///
    /// # Errors
    /// The first tensor that is missing, has another shape, or differs in dtype from those it is stacked with; names
    /// its file, the expected and the found value.
    pub fn check_tensors(&self, tensors: &dyn TensorSource) -> Result<(), ModelError> {
        let check = Check { tensors };
        let TensorNames { embedding, final_norm, head, layers } = &self.tensors;
        let table = [self.vocab_size, self.hidden_size];
        check.tensor(embedding, &table)?;
        check.tensor(final_norm, &[self.hidden_size])?;
        if let Some(head) = head {
            check.tensor(head, &table)?;
        }
        for layer in layers {
            self.check_layer(&check, layer)?;
        }
        Ok(())
    }

    fn check_layer(&self, check: &Check<'_>, layer: &LayerTensors) -> Result<(), ModelError> {
        let hidden = self.hidden_size;
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let norms = [Some(&layer.attn_norm), Some(&layer.ffn_norm), layer.post_attn_norm.as_ref()];
        for norm in norms.into_iter().flatten().chain(&layer.post_ffn_norm) {
            check.tensor(norm, &[hidden])?;
        }
        if let Some((q_norm, k_norm)) = &layer.qk_norm {
            check.tensor(q_norm, &[self.head_dim])?;
            check.tensor(k_norm, &[self.head_dim])?;
        }
        check.stacked(&layer.qkv, &[q, kv, kv], Some(hidden))?;
        check.stacked(&layer.qkv_bias, &[q, kv, kv], None)?;
        check.tensor(&layer.output, &[hidden, q])?;
        check.stacked(&layer.gate_up, &[self.intermediate_size; 2], Some(hidden))?;
        check.stacked(&layer.gate_up_bias, &[self.intermediate_size; 2], None)?;
        check.tensor(&layer.down, &[hidden, self.intermediate_size])?;
        for bias in [&layer.output_bias, &layer.down_bias].into_iter().flatten() {
            check.tensor(bias, &[hidden])?;
        }
        Ok(())
    }
}

struct Check<'a> {
    tensors: &'a dyn TensorSource,
}

impl Check<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<DType, ModelError> {
        let found = self.tensors.tensor(name)?;
        if found.shape == shape {
            return Ok(found.dtype);
        }
        Err(self.error(name, format!("has shape {:?}, the configuration implies {shape:?}", found.shape)))
    }

    /// Parts stacked by rows: one tensor each for `rows`, or one for all of them. `cols` is `None` for vectors.
    fn stacked(&self, names: &[String], rows: &[usize], cols: Option<usize>) -> Result<(), ModelError> {
        let shape = |rows: usize| [Some(rows), cols].into_iter().flatten().collect::<Vec<_>>();
        if let [fused] = names {
            return self.tensor(fused, &shape(rows.iter().sum())).map(|_| ());
        }
        let mut first = None;
        for (name, rows) in names.iter().zip(rows) {
            let dtype = self.tensor(name, &shape(*rows))?;
            match first {
                Some(expected) if expected != dtype => {
                    return Err(
                        self.error(name, format!("is {dtype:?}, the tensors beside it are {expected:?}"))
                    );
                }
                _ => first = Some(dtype),
            }
        }
        Ok(())
    }

    fn error(&self, name: &str, message: String) -> ModelError {
        ModelError::Tensor { file: self.tensors.file(name).into(), tensor: name.into(), message }
    }
}
