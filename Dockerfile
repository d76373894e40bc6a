# syntax=docker/dockerfile:1
# Targets: cpu (the default), cuda, sagemaker. The binary is the same in all; it picks its device at run time.
# Every step is a script of tools/image, and `make prove-image` runs them, and the result, without Docker.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN tools/image/build /out/weirgate

FROM debian:bookworm-slim AS base
RUN --mount=type=bind,from=build,source=/out,target=/build \
    --mount=type=bind,source=tools/image,target=/image \
    /image/install /build/weirgate
ENV HF_HOME=/data PORT=80
EXPOSE 80
ENTRYPOINT ["text-generation-launcher"]

FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM cuda AS sagemaker
EXPOSE 8080
CMD ["serve"]

FROM base AS cpu
