# A host with this extension, behind a log-in, that ends its machine when idle:
#
#   docker build -f deploy/host.Dockerfile --build-arg BASE=... --build-arg HOST=comfyui --build-arg HOST_DIR=... .
#   docker build -f deploy/host.Dockerfile --build-arg BASE=... --build-arg HOST=webui --build-arg HOST_DIR=... .
#
# BASE: any public image (Debian or Ubuntu inside) that holds ComfyUI or AUTOMATIC1111 at HOST_DIR, with HOST_PYTHON.
ARG BASE
FROM ${BASE}

ARG HOST
ARG HOST_DIR
ARG HOST_PYTHON=python3
USER root
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl gawk nginx-light openssl tini util-linux \
    && rm -rf /var/lib/apt/lists/* \
    && (id mist >/dev/null 2>&1 || useradd --create-home mist) \
    && mkdir -p /workspace && chown mist: /workspace

COPY . /opt/mist
RUN case "${HOST}" in \
        comfyui) place="${HOST_DIR}/custom_nodes/mist" ;; \
        webui) place="${HOST_DIR}/extensions/mist" ;; \
        *) echo "HOST must be comfyui or webui" && exit 1 ;; \
    esac \
    && mkdir -p "$(dirname "$place")" && cp -r /opt/mist "$place" \
    && PIP_BREAK_SYSTEM_PACKAGES=1 "${HOST_PYTHON}" -m pip install --no-cache-dir -r /opt/mist/requirements.txt \
    && chown -R mist: "${HOST_DIR}"

ARG START_AS=mist
USER ${START_AS}
ENV MIST_HOST=${HOST} MIST_HOST_DIR=${HOST_DIR} MIST_HOST_PYTHON=${HOST_PYTHON} \
    MIST_HEALTH_URL=http://127.0.0.1:18188/ PYTHONUNBUFFERED=1
EXPOSE 8080
HEALTHCHECK --interval=60s --start-period=15m CMD ["/opt/mist/deploy/healthcheck.sh"]
ENTRYPOINT ["tini", "-g", "--", "sh", "-c", "exec /opt/mist/deploy/host.sh \"$MIST_HOST\" \"$@\"", "host.sh"]
