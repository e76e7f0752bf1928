# One file, an image for each service: docker build -t IMAGE --target SERVICE .
# Services: dataset controller allocator exporter gateway trainer.
# They run as any user, with a read-only root; what they write goes to /tmp and to folders that are settings.
ARG BASE=python:3.11-slim-bookworm

# The package without its code: names what has to be installed, and changes with pyproject.toml alone.
FROM ${BASE} AS requirements
WORKDIR /source
COPY pyproject.toml .
RUN touch README.md LICENSE && python -m pip wheel --quiet --no-deps --wheel-dir /wheel .

# The package's code, with byte code: nothing can be written beside it later.
FROM ${BASE} AS code
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY libs libs
COPY services services
RUN python -m pip wheel --quiet --no-deps --wheel-dir /wheel . \
 && python -m pip install --quiet --no-deps --no-compile --target /app /wheel/*.whl \
 && python -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${BASE} AS runtime
# HOME and LOGNAME: a user of any number has neither, and some libraries ask for them.
ENV HOME=/tmp \
    LOGNAME=allotment \
    ORT_DISABLE_TELEMETRY=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ONLY_BINARY=:all: \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title="Allotment" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /tmp
# The code comes last into each image, so that a change of it installs nothing again.
# SIGTERM counts from the interpreter's start: the first process of a container has no default for it.
RUN python -c "import pathlib, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), 'allotment-code.pth').write_text('/app\\n'\
 'import os, signal; os.getpid() == 1 and signal.signal(signal.SIGTERM, lambda *_: os._exit(0))\\n')"
COPY --from=requirements /wheel /wheel

# What the services have in common is one layer of all their images.
FROM runtime AS service
RUN python -m pip install --quiet "$(ls /wheel/*.whl)[server]"

FROM service AS stateful
RUN python -m pip install --quiet "$(ls /wheel/*.whl)[postgres]"

FROM stateful AS dataset
RUN python -m pip install --quiet "$(ls /wheel/*.whl)[dataset]"
COPY --from=code /app /app
USER 10001
EXPOSE 8443 8444 8080 9090
ENTRYPOINT ["python", "-P", "-m", "allotment_dataset"]

FROM stateful AS controller
RUN python -m pip install --quiet "$(ls /wheel/*.whl)[controller]"
COPY --from=code /app /app
USER 10001
EXPOSE 8443 8444 8080 9090
ENTRYPOINT ["python", "-P", "-m", "allotment_controller"]

FROM stateful AS allocator
RUN python -m pip install --quiet "$(ls /wheel/*.whl)[allocator,kubernetes]"
COPY --from=code /app /app
USER 10001
EXPOSE 8443 8444 8080 9090
ENTRYPOINT ["python", "-P", "-m", "allotment_allocator"]

FROM stateful AS exporter
RUN python -m pip install --quiet "$(ls /wheel/*.whl)[exporter]"
COPY --from=code /app /app
USER 10001
EXPOSE 8443 8444 8080 9090
ENTRYPOINT ["python", "-P", "-m", "allotment_exporter"]

FROM service AS gateway
COPY --from=code /app /app
USER 10001
EXPOSE 8443 8080 9090
ENTRYPOINT ["python", "-P", "-m", "allotment_gateway"]

FROM runtime AS trainer
# LightGBM uses the system's OpenMP runtime, which slim images lack.
RUN python -c "import ctypes; ctypes.CDLL('libgomp.so.1')" 2>/dev/null \
 || { apt-get update -qq && apt-get install -qq --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*; }
# Libraries without their tests (numpy imports some of its own): 50 MB.
RUN python -m pip install --quiet "$(ls /wheel/*.whl)[trainer]" \
 && find / -xdev -type d -path '*-packages/*/tests' -not -path '*/numpy/*' -prune -exec rm -rf {} +
# What pip installs as torch, for the family mlp: TORCH=torch has CUDA, for GPU nodes; empty: no networks, gigabytes less.
ARG TORCH=
RUN if [ -n "${TORCH}" ]; then python -m pip install --quiet ${TORCH} && python -m pip install --quiet "$(ls /wheel/*.whl)[torch]"; fi
COPY --from=code /app /app
USER 10001
ENTRYPOINT ["python", "-P", "-m", "allotment_trainer"]
