# Everything in one image: torch with CUDA, FFCV, detectron2 with its CUDA operators, this project at /skd.
#
#   docker build -t skd .
#   docker run --rm -it --gpus all --shm-size 8g -v /data:/data -v "$PWD/runs:/skd/runs" skd \
#       accelerate launch recipes/imagenet_r50_sddropout.py --data /data/beton
#
# BASE needs apt and Python 3.10 to 3.13; nvcc in it, which compiles detectron2's operators, has to fit the CUDA of
# torch's wheels (13.0). Without nvcc give --build-arg FORCE_CUDA=0.
ARG BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04
FROM $BASE
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates make python3 python3-pip && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /skd
COPY . .
# No GPU is visible while an image is built: these are Ampere, Ada, Hopper and Blackwell.
ARG FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="8.0;8.6;8.9;9.0;10.0+PTX"
RUN make setup && rm -rf /root/.cache /var/lib/apt/lists/*
ENV PATH=/skd/.venv/bin:$PATH
CMD ["skd", "doctor"]
