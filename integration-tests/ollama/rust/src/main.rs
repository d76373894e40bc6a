//! Makes the calls of ollama-rs and prints what it got as one JSON object. Arguments: base URL, a model to begin with, a
//! name at a registry.

use futures_util::StreamExt;
use ollama_rs::Ollama;
use ollama_rs::error::OllamaError;
use ollama_rs::generation::chat::ChatMessage;
use ollama_rs::generation::chat::request::ChatMessageRequest;
use ollama_rs::generation::completion::request::GenerationRequest;
use ollama_rs::models::ModelOptions;
use ollama_rs::models::create::CreateModelRequest;
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), OllamaError> {
    let [url, base, remote] =
        std::array::from_fn(|at| std::env::args().nth(at + 1).expect("three arguments"));
    let client = Ollama::try_new(url).expect("a URL");
    let options = || ModelOptions::default().temperature(0.0).num_predict(16);
    let completion = || GenerationRequest::new(base.clone(), "Once upon a time").options(options());
    let chat = || {
        let question = ChatMessage::user("Which port do you listen on?".to_owned());
        ChatMessageRequest::new(base.clone(), vec![question]).options(options())
    };

    let whole = client.generate(completion()).await?;
    let mut stream = client.generate_stream(completion()).await?;
    let mut streamed = String::new();
    while let Some(parts) = stream.next().await {
        parts?.iter().for_each(|part| streamed += &part.response);
    }
    let answer = client.send_chat_messages(chat()).await?;
    let mut stream = client.send_chat_messages_stream(chat()).await?;
    let mut chatted = String::new();
    while let Some(part) = stream.next().await {
        chatted += &part.map_err(|()| OllamaError::Other("the stream broke".to_owned()))?.message.content;
    }

    let request = || {
        let parameters = ModelOptions::default().num_predict(3);
        CreateModelRequest::new("made".to_owned())
            .from_model(base.clone())
            .system("Be brief.".to_owned())
            .parameters(parameters)
    };
    let created = client.create_model(request()).await?;
    let mut statuses = Vec::new();
    let mut stream = client.create_model_stream(request()).await?;
    while let Some(status) = stream.next().await {
        statuses.push(status?.message);
    }
    let shown = client.show_model_info("made".to_owned()).await?;
    client.copy_model("made".to_owned(), remote.clone()).await?;
    let pushed = client.push_model(remote.clone(), true).await?;
    let before = client.list_local_models().await?.len();
    client.delete_model(remote.clone()).await?;
    let after = client.list_local_models().await?.len();
    let mut pulls = Vec::new();
    let mut stream = client.pull_model_stream(remote.clone(), true).await?;
    while let Some(status) = stream.next().await {
        pulls.push(status?.message);
    }
    let pulled = client.pull_model(remote.clone(), true).await?;
    let missing = client.generate(GenerationRequest::new("no-such-model".to_owned(), "Hi")).await;
    let found = json!({
        "whole": whole.response, "streamed": streamed, "count": whole.eval_count,
        "answer": answer.message.content, "chatted": chatted,
        "created": created.message, "statuses": statuses, "parameters": shown.parameters, "info": shown.model_info,
        "capabilities": shown.capabilities,
        "pushed": pushed.message, "before": before, "after": after, "pulls": pulls, "pulled": pulled.message,
        "missing": missing.err().map(|error| error.to_string()),
    });
    println!("{found}");
    Ok(())
}
