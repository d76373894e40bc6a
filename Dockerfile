# syntax=docker/dockerfile:1
# Targets: cpu (default), cuda. The binary is the same in both; it picks its device at run time.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN make build && strip --strip-debug target/release/weirgate

FROM debian:bookworm-slim AS base
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*

FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility HF_HOME=/data PORT=80
COPY --from=build /src/target/release/weirgate /usr/local/bin/weirgate
RUN ln -s weirgate /usr/local/bin/text-generation-launcher
EXPOSE 80
ENTRYPOINT ["weirgate"]

FROM base AS cpu
ENV HF_HOME=/data PORT=80
COPY --from=build /src/target/release/weirgate /usr/local/bin/weirgate
RUN ln -s weirgate /usr/local/bin/text-generation-launcher
EXPOSE 80
ENTRYPOINT ["weirgate"]
