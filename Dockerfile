# The pilot's runtime image: Python, one venv, and nothing that writes outside /scratch.
# Built by container/build-image.sh (`make image`). It runs with any uid and on a read-only root; mount a volume
# on /scratch, from where work, HOME and TMPDIR come.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS builder
WORKDIR /source
# Without pip in it, the venv holds the pilot and what the pilot imports, and nothing else.
# Its interpreter is a copy that the image's user may execute and not read: so the kernel lets no process of the same
# uid, such as a payload, look into ours, from the first instruction on (pilot/processes/child.py closes them as well).
RUN python3 -m venv --copies --without-pip /opt/venv
# The dependencies have a layer of their own: a changed source line does not fetch them again.
COPY pyproject.toml ./
RUN python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > /tmp/requirements.txt
# The secrets are the building machine's, for pip's way out of it; a build without them works where none is needed.
RUN --mount=type=secret,id=ca,target=/run/ca.pem --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-compile -r /tmp/requirements.txt
COPY . ./
RUN --mount=type=secret,id=ca,target=/run/ca.pem --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --no-deps .
# A read-only root cannot be given bytecode later. Unchecked: it stays good whatever a registry does to file times.
RUN python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib && chmod 0711 /opt/venv/bin/python*

FROM ${BASE}
ARG VERSION=0
LABEL org.opencontainers.image.title="panda-pod-pilot" \
      org.opencontainers.image.description="A pilot for the PanDA workload manager that lives in Kubernetes pods" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# The official Python images come without bytecode of the standard library.
RUN python3 -m compileall -q -j 0 -x '/(site-packages|tests?)/' \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
    && install -d -m 1777 /scratch
COPY --from=builder /opt/venv /opt/venv
COPY --from=builder /source/wrappers /opt/wrappers
# The command is found, but not the venv's Python: payloads inherit PATH, and their python3 is not ours.
RUN ln -s /opt/venv/bin/pilot /usr/local/bin/pilot
ENV HOME=/scratch \
    TMPDIR=/scratch \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /scratch
USER 10001:0
STOPSIGNAL SIGTERM
# Exec form: the pilot itself is PID 1, so that SIGTERM reaches it.
ENTRYPOINT ["/opt/venv/bin/pilot"]
CMD ["run"]
