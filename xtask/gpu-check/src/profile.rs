//! Where a layer's time goes: each of its operations alone, at the size's shapes, forward and backward, in bf16. What the
//! products reach is the ceiling of the whole step.

use anyhow::Result;
use ovhost_torch::{Segments, attention, linear_cross_entropy, rms_norm, rope, silu_mul};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::timing::{config, median_ms};

/// One operation.
#[derive(Debug, Serialize)]
pub struct Row {
    name: &'static str,
    /// How often a step does it, in all layers.
    times: i64,
    /// Forward and backward once.
    ms: f64,
    /// Forward and backward, where it is made of products.
    tflops: Option<f64>,
}

/// Times the decoder's operations; prints a table.
///
/// # Errors
/// An unknown size, or what libtorch throws.
pub fn run(size: &str, tokens: i64, device: Device) -> Result<Vec<Row>> {
    let c = config(size)?.text;
    let (width, inner, heads, kv) =
        (c.hidden_size, c.intermediate_size, c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let random = |shape: &[i64]| -> Result<Tensor> {
        Ok(Tensor::f_randn(shape, (Kind::BFloat16, device))?.f_set_requires_grad(true)?)
    };
    let layers = c.num_hidden_layers;
    let mut rows = Vec::new();
    let mut add = |name, times, flop: Option<f64>, work: &dyn Fn() -> Result<Tensor>| -> Result<()> {
        // The gradient of a sum is one everywhere: cheap beside what is measured, and the same for all.
        let ms = median_ms(device, 5, || Ok(work()?.f_sum(Kind::Float)?.f_backward()?))?;
        let tflops = flop.map(|flop| flop / ms / 1e9);
        let speed = tflops.map_or(String::new(), |t| format!("{t:>8.0} TFLOP/s"));
        println!("{name:<28} {ms:>9.3} ms × {times:>3} = {:>8.1} ms {speed}", ms * times as f64);
        rows.push(Row { name, times, ms, tflops });
        Ok(())
    };
    println!("{size}: the decoder's operations alone, forward and backward, {tokens} tokens");
    let products = |input: i64, output: i64| Some(6.0 * tokens as f64 * input as f64 * output as f64);
    for (name, input, output, times) in [
        ("q_proj", width, heads, layers),
        ("k_proj, v_proj", width, kv, 2 * layers),
        ("o_proj", heads, width, layers),
        ("gate_proj, up_proj", width, inner, 2 * layers),
        ("down_proj", inner, width, layers),
    ] {
        let (x, w) = (random(&[tokens, input])?, random(&[output, input])?);
        add(name, times, products(input, output), &|| Ok(x.f_linear(&w, None::<Tensor>)?))?;
    }
    let (x, w) = (random(&[tokens, width])?, random(&[width])?);
    add("RMSNorm, width", 2 * layers, None, &|| Ok(rms_norm(&x, &w, c.rms_norm_eps)?))?;
    let q = random(&[tokens, c.num_attention_heads, c.head_dim])?;
    let k = random(&[tokens, c.num_key_value_heads, c.head_dim])?;
    let v = random(&[tokens, c.num_key_value_heads, c.head_dim])?;
    let w = random(&[c.head_dim])?;
    add("RMSNorm, queries", layers, None, &|| Ok(rms_norm(&q, &w, c.rms_norm_eps)?))?;
    let angles = Tensor::f_randn([tokens, c.head_dim / 2], (Kind::Float, device))?;
    add("rope, queries", layers, None, &|| Ok(rope(&q, &angles.f_cos()?, &angles.f_sin()?)?))?;
    for (name, length) in [("attention, samples of 1,024", 1024), ("attention, one sample", tokens)] {
        let cu: Vec<i32> = (0..tokens)
            .step_by(length.min(tokens) as usize)
            .chain([tokens])
            .map(i32::try_from)
            .collect::<Result<_, _>>()?;
        let segments = Segments::new(&cu, device)?;
        let met: f64 = cu.windows(2).map(|p| f64::from(p[1] - p[0]).powi(2) / 2.0).sum();
        let scale = (c.head_dim as f64).powf(-0.5);
        add(name, layers, Some(12.0 * met * heads as f64), &|| Ok(attention(&q, &k, &v, &segments, true, scale)?))?;
    }
    drop((q, k, v));
    let (gate, up) = (random(&[tokens, inner])?, random(&[tokens, inner])?);
    add("SwiGLU's gate", layers, None, &|| Ok(silu_mul(&gate, &up)?))?;
    drop((gate, up));
    let head = random(&[c.vocab_size, width])?;
    let targets = Tensor::f_zeros([tokens], (Kind::Int64, device))?;
    let chunk = ((1 << 26) / c.vocab_size).max(64);
    add("head and loss", 1, products(width, c.vocab_size), &|| Ok(linear_cross_entropy(&x, &head, &targets, chunk)?))?;
    Ok(rows)
}
