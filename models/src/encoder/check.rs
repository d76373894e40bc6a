use super::spec::{Classifier, EncoderLayer, EncoderSpec, LinearTensors, NormTensors};
use crate::{ModelError, TensorSource};

/// Tensors by name, with the shapes that the configuration implies.
type Shapes<'a> = Vec<(&'a str, Vec<usize>)>;

impl EncoderSpec {
    /// Every tensor the architecture needs, with the shape the configuration implies.
    pub fn tensor_shapes(&self) -> Shapes<'_> {
        let (hidden, tensors) = (self.hidden_size, &self.tensors);
        let mut shapes = vec![(tensors.words.as_str(), vec![self.vocab_size, hidden])];
        if let Some(positions) = &tensors.positions {
            shapes.push((positions, vec![self.first_position + self.max_tokens, hidden]));
        }
        if let Some(types) = &tensors.types {
            shapes.push((types, vec![self.token_types, hidden]));
        }
        norm(&tensors.norm, hidden, &mut shapes);
        for layer in &self.layers {
            self.layer_shapes(layer, &mut shapes);
        }
        if let Some(final_norm) = &tensors.final_norm {
            norm(final_norm, hidden, &mut shapes);
        }
        if let Some(bias) = &self.relative_bias {
            shapes.push((&bias.tensor, vec![bias.buckets, self.heads]));
        }
        if let Some(Classifier { dense, norm: between, output, labels, .. }) = &self.classifier {
            linear(dense, hidden, hidden, &mut shapes);
            between.iter().for_each(|between| norm(between, hidden, &mut shapes));
            linear(output, *labels, hidden, &mut shapes);
        }
        shapes
    }

    fn layer_shapes<'a>(&self, layer: &'a EncoderLayer, shapes: &mut Shapes<'a>) {
        let (hidden, width) = (self.hidden_size, self.heads * self.head_dim);
        let up = if self.gated { 2 * self.intermediate_size } else { self.intermediate_size };
        linear(&layer.qkv, 3 * width, hidden, shapes);
        linear(&layer.output, hidden, width, shapes);
        linear(&layer.up, up, hidden, shapes);
        linear(&layer.down, hidden, self.intermediate_size, shapes);
        for each in layer.attn_norm.iter().chain([&layer.ffn_norm]) {
            norm(each, hidden, shapes);
        }
    }

    /// Checks that every tensor the architecture needs exists in the shape the configuration implies.
    ///
    /// # Errors
    /// The first tensor that is missing or has another shape; names its file, the expected and the found value.
    pub fn check_tensors(&self, tensors: &dyn TensorSource) -> Result<(), ModelError> {
        for (name, shape) in self.tensor_shapes() {
            let (_, found) = tensors.info(name)?;
            if found != shape {
                return Err(ModelError::Tensor {
                    file: tensors.file(name).into(),
                    tensor: name.into(),
                    message: format!("has shape {found:?}, the configuration implies {shape:?}"),
                });
            }
        }
        Ok(())
    }
}

fn norm<'a>(norm: &'a NormTensors, hidden: usize, shapes: &mut Shapes<'a>) {
    shapes.extend(
        [Some(&norm.weight), norm.bias.as_ref()]
            .into_iter()
            .flatten()
            .map(|name| (name.as_str(), vec![hidden])),
    );
}

/// Parts of equal heights.
fn linear<'a>(linear: &'a LinearTensors, rows: usize, cols: usize, shapes: &mut Shapes<'a>) {
    let each = |parts: &[String]| rows / parts.len().max(1);
    let (weight, bias) = (each(&linear.weights), each(&linear.biases));
    shapes.extend(linear.weights.iter().map(|name| (name.as_str(), vec![weight, cols])));
    shapes.extend(linear.biases.iter().map(|name| (name.as_str(), vec![bias])));
}
