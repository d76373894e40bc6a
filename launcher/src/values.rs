//! The values that flags take beside numbers and strings.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use clap::ValueEnum;
use weirgate_models::{QuantMethod, QuantMix};
use weirgate_router::{DeviceSetting, Quantize};

/// Reads a boolean the ways people write one in an environment file, in any case. Empty is false.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" | "" => Ok(false),
        _ => Err("expected true, false, 1, 0, yes, no, on or off".to_owned()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Quantization {
    Awq,
    CompressedTensors,
    Eetq,
    Exl2,
    Gptq,
    Marlin,
    Bitsandbytes,
    BitsandbytesNf4,
    BitsandbytesFp4,
    Fp8,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
    #[value(name = "q4_k_m")]
    Q4KM,
    #[value(name = "q5_k_m")]
    Q5KM,
    #[value(name = "q6_k")]
    Q6K,
}

impl Quantization {
    /// What it asks for; what is not supported, instead, the value that makes weights as small.
    pub fn resolve(self) -> Result<Quantize, Quantization> {
        Ok(match self {
            Quantization::Q8_0 => Quantize::Convert(QuantMix::Q8_0),
            Quantization::Q4_0 => Quantize::Convert(QuantMix::Q4_0),
            Quantization::Q4KM => Quantize::Convert(QuantMix::Q4KM),
            Quantization::Q5KM => Quantize::Convert(QuantMix::Q5KM),
            Quantization::Q6K => Quantize::Convert(QuantMix::Q6K),
            Quantization::Awq => Quantize::Stored(QuantMethod::Awq),
            // Marlin is a kernel for GPTQ's weights.
            Quantization::Gptq | Quantization::Marlin => Quantize::Stored(QuantMethod::Gptq),
            Quantization::Fp8 => Quantize::Stored(QuantMethod::Fp8),
            Quantization::CompressedTensors => Quantize::Stored(QuantMethod::CompressedTensors),
            Quantization::Eetq | Quantization::Bitsandbytes => return Err(Quantization::Q8_0),
            Quantization::Exl2 | Quantization::BitsandbytesNf4 | Quantization::BitsandbytesFp4 => {
                return Err(Quantization::Q4KM);
            }
        })
    }
}

/// What `weirgate quantize` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FileType {
    #[value(name = "F16")]
    F16,
    #[value(name = "BF16")]
    BF16,
    #[value(name = "Q8_0")]
    Q8_0,
    #[value(name = "Q4_0")]
    Q4_0,
    #[value(name = "Q4_K_M")]
    Q4KM,
    #[value(name = "Q5_K_M")]
    Q5KM,
    #[value(name = "Q6_K")]
    Q6K,
}

impl FileType {
    pub fn mix(self) -> QuantMix {
        match self {
            FileType::F16 => QuantMix::F16,
            FileType::BF16 => QuantMix::BF16,
            FileType::Q8_0 => QuantMix::Q8_0,
            FileType::Q4_0 => QuantMix::Q4_0,
            FileType::Q4KM => QuantMix::Q4KM,
            FileType::Q5KM => QuantMix::Q5KM,
            FileType::Q6K => QuantMix::Q6K,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    Float16,
    #[value(name = "bfloat16")]
    BFloat16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KvCacheDtype {
    #[value(name = "float16", aliases = ["f16"])]
    Float16,
    #[value(name = "bfloat16", aliases = ["bf16"])]
    Bfloat16,
    #[value(name = "fp8_e4m3fn")]
    Fp8E4m3fn,
    #[value(name = "fp8_e5m2")]
    Fp8E5m2,
}

impl KvCacheDtype {
    pub fn resolve(self) -> weirgate_router::KvCacheDtype {
        match self {
            Self::Float16 => weirgate_router::KvCacheDtype::Float16,
            Self::Bfloat16 => weirgate_router::KvCacheDtype::Bfloat16,
            Self::Fp8E4m3fn => weirgate_router::KvCacheDtype::Fp8E4m3fn,
            Self::Fp8E5m2 => weirgate_router::KvCacheDtype::Fp8E5m2,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RopeScaling {
    Linear,
    Dynamic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UsageStats {
    On,
    Off,
    NoStack,
}

/// `auto`, `cpu`, `cuda` or `cuda:<number>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device(pub DeviceSetting);

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let setting = match text.to_ascii_lowercase().as_str() {
            "auto" => Some(DeviceSetting::Auto),
            "cpu" => Some(DeviceSetting::Cpu),
            "cuda" => Some(DeviceSetting::Cuda(0)),
            other => other.strip_prefix("cuda:").and_then(|n| n.parse().ok()).map(DeviceSetting::Cuda),
        };
        setting.map(Self).ok_or_else(|| "expected auto, cpu, cuda or cuda:<number>".to_owned())
    }
}

/// What compiles grammars, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GrammarBackend {
    Auto,
    Llguidance,
    Outlines,
}

impl From<GrammarBackend> for weirgate_router::GrammarBackend {
    fn from(typed: GrammarBackend) -> Self {
        match typed {
            GrammarBackend::Auto => Self::Auto,
            GrammarBackend::Llguidance => Self::Llguidance,
            GrammarBackend::Outlines => Self::Outlines,
        }
    }
}

/// Blanks under a grammar, as they are typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GrammarWhitespace {
    Compact,
    Flexible,
}

impl From<GrammarWhitespace> for weirgate_router::GrammarWhitespace {
    fn from(typed: GrammarWhitespace) -> Self {
        match typed {
            GrammarWhitespace::Compact => Self::Compact,
            GrammarWhitespace::Flexible => Self::Flexible,
        }
    }
}

/// Under which names text-generation-inference's programs are started; a link of such a name stands in for them.
const TGI_PROGRAMS: [&str; 2] = ["text-generation-launcher", "text-generation-router"];

/// Whether the program was started under such a name: who does that wants all of TGI's ways.
pub fn is_tgi_program(program: &OsStr) -> bool {
    let name = Path::new(program).file_name().and_then(OsStr::to_str);
    name.is_some_and(|name| TGI_PROGRAMS.contains(&name))
}

/// The router's profiles as they are typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    Tgi,
    #[value(name = "openai")]
    OpenAi,
    Ollama,
    Jan,
    Management,
}

impl From<Profile> for weirgate_router::Profile {
    fn from(typed: Profile) -> Self {
        match typed {
            Profile::Tgi => Self::Tgi,
            Profile::OpenAi => Self::OpenAi,
            Profile::Ollama => Self::Ollama,
            Profile::Jan => Self::Jan,
            Profile::Management => Self::Management,
        }
    }
}

/// A number of tokens, or `none` for no limit but the total one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenLimit(pub Option<u32>);

impl FromStr for TokenLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("none") {
            return Ok(Self(None));
        }
        match text.parse() {
            Ok(0) | Err(_) => Err("expected a number of tokens of at least 1, or `none`".to_owned()),
            Ok(tokens) => Ok(Self(Some(tokens))),
        }
    }
}

/// Where Ollama's server listens, in any of the forms that it takes: host and port are optional, and so is a scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OllamaHost(pub SocketAddr);

impl FromStr for OllamaHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        listen_address(text, 11434).map(Self)
    }
}

/// Where the management API listens, in the same forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManagementHost(pub SocketAddr);

impl FromStr for ManagementHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        listen_address(text, 5100).map(Self)
    }
}

/// The same with Jan's port where none is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JanHost(pub SocketAddr);

impl FromStr for JanHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        listen_address(text, 1337).map(Self)
    }
}

fn listen_address(text: &str, default_port: u16) -> Result<SocketAddr, String> {
    let place = text.trim().trim_start_matches("http://").trim_end_matches('/');
    if let Ok(address) = place.parse() {
        return Ok(address);
    }
    let bare = |host: &str| host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if bare(place).is_err() => {
            (host, port.parse().map_err(|_| format!("{port:?} is not a port"))?)
        }
        _ => (place, default_port),
    };
    let host = match host {
        "" | "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => bare(host).map_err(|_| format!("{host:?} is not an IP address"))?,
    };
    Ok(SocketAddr::new(host, port))
}

/// A place in a bucket: `s3://bucket/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    pub name: String,
    pub prefix: String,
}

impl FromStr for Bucket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = text.trim().strip_prefix("s3://").ok_or("expected s3://bucket/prefix")?;
        let (name, prefix) = place.split_once('/').unwrap_or((place, ""));
        if name.is_empty() {
            return Err("the bucket is missing".to_owned());
        }
        Ok(Self { name: name.to_owned(), prefix: prefix.trim_matches('/').to_owned() })
    }
}

#[cfg(test)]
mod place_tests {
    use super::{Bucket, JanHost, ManagementHost, OllamaHost};

    #[test]
    fn other_listeners_have_usual_ports() {
        assert_eq!("0.0.0.0".parse(), Ok(ManagementHost("0.0.0.0:5100".parse().unwrap())));
        assert_eq!("0.0.0.0".parse(), Ok(JanHost("0.0.0.0:1337".parse().unwrap())));
    }

    #[test]
    fn buckets_have_a_name_and_maybe_a_prefix() {
        let bucket = |name: &str, prefix: &str| Ok(Bucket { name: name.into(), prefix: prefix.into() });
        assert_eq!("s3://data".parse(), bucket("data", ""));
        assert_eq!("s3://data/sets/of/mine/".parse(), bucket("data", "sets/of/mine"));
        assert!("s3:///x".parse::<Bucket>().is_err());
        assert!("https://data".parse::<Bucket>().is_err());
    }

    #[test]
    fn ollamas_host_has_many_forms() {
        for (text, address) in [
            ("127.0.0.1:11434", "127.0.0.1:11434"),
            ("0.0.0.0", "0.0.0.0:11434"),
            (":8080", "127.0.0.1:8080"),
            ("localhost", "127.0.0.1:11434"),
            ("localhost:1", "127.0.0.1:1"),
            ("http://127.0.0.1:11435/", "127.0.0.1:11435"),
            ("", "127.0.0.1:11434"),
            ("[::1]:80", "[::1]:80"),
            ("[::1]", "[::1]:11434"),
            ("::", "[::]:11434"),
        ] {
            assert_eq!(text.parse(), Ok(OllamaHost(address.parse().unwrap())), "{text}");
        }
        for text in ["example.com", "localhost:x", "localhost:99999"] {
            assert!(text.parse::<OllamaHost>().is_err(), "{text}");
        }
    }
}
