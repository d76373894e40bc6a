//! Makes the calls of ollama-rs and prints what it got as one JSON object. Arguments: base URL, a model to begin with, a
//! model that makes vectors, a name at a registry.

use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use ollama_rs::Ollama;
use ollama_rs::error::OllamaError;
use ollama_rs::generation::chat::ChatMessage;
use ollama_rs::generation::chat::request::ChatMessageRequest;
use ollama_rs::generation::completion::request::GenerationRequest;
use ollama_rs::generation::embeddings::request::GenerateEmbeddingsRequest;
use ollama_rs::models::ModelOptions;
use ollama_rs::models::create::CreateModelRequest;
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), OllamaError> {
    let [url, base, embedder, remote] =
        std::array::from_fn(|at| std::env::args().nth(at + 1).expect("four arguments"));
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
        chatted += &part.map_err(broken)?.message.content;
    }
    let mut history = Vec::new();
    let first = client.send_chat_messages_with_history(&mut history, chat()).await?;
    let second = client.send_chat_messages_with_history(&mut history, chat()).await?;
    let turns = [first, second]
        .map(|turn| (turn.message.content, turn.final_data.map(|data| data.prompt_eval_count)));
    let shared = Arc::new(Mutex::new(Vec::<ChatMessage>::new()));
    for _ in 0..2 {
        let mut stream = client.send_chat_messages_with_history_stream(shared.clone(), chat()).await?;
        while let Some(part) = stream.next().await {
            part.map_err(broken)?;
        }
    }
    let said =
        |history: &[ChatMessage]| history.iter().map(|message| message.content.clone()).collect::<Vec<_>>();
    let histories = [said(&history), said(&shared.lock().expect("nobody panicked"))];
    let texts = vec!["a question", "x"];
    let vectors = client.generate_embeddings(GenerateEmbeddingsRequest::new(embedder, texts.into())).await?;

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
    let mut pushes = Vec::new();
    let mut stream = client.push_model_stream(remote.clone(), true).await?;
    while let Some(status) = stream.next().await {
        pushes.push(status?.message);
    }
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
        "answer": answer.message.content, "chatted": chatted, "turns": turns, "histories": histories,
        "vectors": vectors.embeddings,
        "created": created.message, "statuses": statuses, "parameters": shown.parameters, "info": shown.model_info,
        "capabilities": shown.capabilities,
        "pushes": pushes, "pushed": pushed.message, "before": before, "after": after, "pulls": pulls, "pulled": pulled.message,
        "missing": missing.err().map(|error| error.to_string()),
    });
    println!("{found}");
    Ok(())
}

fn broken((): ()) -> OllamaError {
    OllamaError::Other("the stream broke".to_owned())
}
