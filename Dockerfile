# syntax=docker/dockerfile:1
#
# The operator's image, and that of the sample worker (--target worker): one static program on nothing.
#
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION=0.1.0 -t ghcr.io/durable-operator/durable-operator:0.1.0 .
#   docker buildx build --target worker -t ghcr.io/durable-operator/durable-worker:0.1.0 .

# Compiles on the machine's own architecture for the other one too: emulated compilers take an hour.
FROM --platform=$BUILDPLATFORM rust:1.95-bookworm AS build
ARG TARGETARCH
ARG BUILDARCH
WORKDIR /src
# What does not change with the source comes first, so that its layer is kept.
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# The compiler of Debian 12 as it is patched now, not one version for ever:
# hadolint ignore=DL3008
RUN case "$TARGETARCH" in amd64) architecture=x86-64;; arm64) architecture=aarch64;; *) echo "no image for $TARGETARCH"; exit 1;; esac; \
    rustup target add "${architecture/x86-64/x86_64}-unknown-linux-gnu"; \
    if [ "$TARGETARCH" != "$BUILDARCH" ]; then \
        apt-get update; \
        apt-get install -y --no-install-recommends "gcc-$architecture-linux-gnu" "libc6-dev-$TARGETARCH-cross"; \
        rm -rf /var/lib/apt/lists/*; \
    fi
COPY . .
# The caches hold the registry and the compiled dependencies: a change of the source compiles the source alone.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=target-$TARGETARCH \
    release/build /out "${TARGETARCH/amd64/x86_64}"

FROM scratch AS base
ARG VERSION=0.0.0
LABEL org.opencontainers.image.source="https://github.com/durable-operator/durable-operator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION"
# Storage accounts are reached over TLS: without the authorities' certificates none can be.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 65532:65532

FROM base AS worker
LABEL org.opencontainers.image.title="durable-worker" \
      org.opencontainers.image.description="Sample worker of Durable Functions, for demos of the operator"
COPY --from=build /out/durable-worker /durable-worker
ENTRYPOINT ["/durable-worker"]

# The last stage is what a build without --target makes.
FROM base AS operator
LABEL org.opencontainers.image.title="durable-operator" \
      org.opencontainers.image.description="Kubernetes operator for Durable Functions"
COPY --from=build /out/durable-operator /durable-operator
EXPOSE 8080
ENTRYPOINT ["/durable-operator"]
