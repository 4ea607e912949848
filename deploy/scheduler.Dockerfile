# The scheduler and the client: no torch, no compiler, no pip. Built from the repository root by docker-compose.yml.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
RUN python -m venv --without-pip /opt/qllm/venv
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY protos protos
COPY client client
COPY scheduler_svc scheduler_svc
COPY gpu_worker gpu_worker
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip --python /opt/qllm/venv/bin/python install -c constraints.txt ".[http]"

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="qllm-scheduler" \
  org.opencontainers.image.description="QLLM's scheduler and client: gRPC and HTTP in front, a control socket behind" \
  org.opencontainers.image.licenses="Apache-2.0"
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip setuptools wheel \
    && groupadd --gid 10001 qllm \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin qllm \
    && install --directory --owner=10001 --group=10001 --mode=0700 /run/qllm
COPY --from=build /opt/qllm /opt/qllm
ENV PATH=/opt/qllm/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 50051 8000 9464
CMD ["qllm-scheduler", "--help"]
