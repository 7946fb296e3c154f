"""Fit a variational autoencoder in as many processes as this script is launched in."""

import os
import sys

import numpy as np
import torch
import torch.distributed as dist

import skvae

if torch.cuda.is_available():
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
else:
    dist.init_process_group("gloo")

X = np.load(sys.argv[1], mmap_mode="r")  # all rows, on every process
vae = skvae.VariationalAutoencoder(10, batch_size=4096, random_state=0).fit(X)
if dist.get_rank() == 0:
    skvae.save(vae, sys.argv[2])
dist.destroy_process_group()
