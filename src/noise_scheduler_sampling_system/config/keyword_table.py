"""The keywords of this library, and what other libraries and other functions call them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, final

__all__ = ["ELSEWHERE", "HOMES", "KEYWORDS", "OPTION_NAMES", "Keyword"]


@final
class Keyword(NamedTuple):
    """A keyword of this library, and its other names.

    Attributes:
        own: its name here.
        home: the function that takes it, a key of ``HOMES``; of several functions the most common.
        give: what to write.
        others: its names in diffusers, k-diffusion, guided-diffusion and elsewhere.
    """

    own: str
    home: str
    give: str
    others: tuple[str, ...]


HOMES: Final[Mapping[str, str]] = {
    "sample": "an argument of sample(...) and stream(...)",
    "run": "an argument of sample(...)",
    "resume": "an argument of stream(...)",
    "pipeline": "chosen when the pipeline is made",
    "config": "a field of NoiseSchedulerConfig",
    "generate": "an argument of generate(...), of a pipeline made by DiffusionPipeline.from_diffusers(pipe)",
    "calibrate": "an argument of calibrate(...)",
}


def _entries(home: str, table: Mapping[str, tuple[str, str]]) -> Iterator[Keyword]:
    for own, (give, others) in table.items():
        yield Keyword(own, home, give, tuple(others.split()))


_SHAPE = "shape=(batch, channels, height, width)"
_CONDITION = 'condition={"name": tensor, ...} with the keywords that the model takes'
_NULL = 'null_condition={"name": tensor, ...}, as condition, for the unconditional branch'

#: A name may be in several entries. The first entry whose keyword the called function has counts; where it has none of
#: them, the entry whose home comes first in ``HOMES``.
KEYWORDS: Final[tuple[Keyword, ...]] = (
    *_entries("calibrate", {
        "nfe": ("nfe=8, the model calls of the plan", "nfes calls num_calls n_calls num_inference_steps steps"),
        "evaluations": ("evaluations=8 of both branches of guidance, in place of nfe", "n_evaluations n_evals"),
        "scales": ("scales=[1.5, 3.0], guidance at which the plan is measured, too", "guidance_scales"),
        "other_condition": ("other_condition={...}, a condition that the plan is measured under, too", ""),
        "other_shape": ("other_shape=(3, 96, 96), of samples that the plan is measured on, too", ""),
        "trajectories": (
            "trajectories=512, and shape of one sample without the batch",
            "num_trajectories n_trajectories num_samples n_samples batch_size bs samples num_images",
        ),
        "held_out": ("held_out=512", "validation val num_val n_val test_trajectories heldout"),
        "budget_seconds": ("budget_seconds=600", "budget time_limit timeout seconds max_seconds time_budget max_time"),
        "passes": ("passes=300", "epochs iterations n_iter max_iter iters num_iterations num_epochs max_steps"),
        "teacher_calls": ("teacher_calls=128", "teacher_steps teacher_nfe teacher reference_steps"),
        "stages": ("stages=['design', 'fit']", "stage optimizer lr learning_rate loss loss_fn"),
        "history": ("history=3", "order solver_order max_order memory"),
        "first": ("first='noisiest'", "first_step first_level"),
        "max_gain": ("max_gain=30", "gain gain_limit"),
        "checkpoint": ("checkpoint='on_the_way.safetensors'", "checkpoint_path ckpt resume resume_from save save_path"),
        "scheduler": ("the pipeline, a noise schedule or its config, after the model", "pipeline schedule config pipe"),
    }),
    *_entries("sample", {
        "num_inference_steps": (
            "num_inference_steps=20",
            "steps n_steps num_steps nsteps inference_steps sampling_steps num_sampling_steps sample_steps ddim_steps "
            "ddim_num_steps S N n_inference_steps denoising_steps num_denoising_steps nfe n_iter max_steps "
            "num_timesteps timesteps_count",
        ),
        "shape": (
            _SHAPE,
            "batch_size bs batch num_samples n_samples samples num_images n_images num_images_per_prompt size "
            "sample_size sample_shape image_size img_size latent_shape height width channels in_channels resolution "
            "num_frames data_shape x_shape",
        ),
        "model": (
            "model=network, a callable (x, t, **condition)",
            "unet net network denoiser denoise_fn denoising_model model_fn transformer eps_model score_model score_fn "
            "noise_model model_function",
        ),
        "guidance_scale": (
            "guidance_scale=7.5, beside condition={...}",
            "cfg cfg_scale cfg_strength guidance_weight guidance_strength guidance_factor w scale cond_scale text_cfg "
            "unconditional_guidance_scale true_cfg_scale classifier_scale cfg_weight",
        ),
        "classifier_free_guidance": (
            "classifier_free_guidance=False for the conditional branch alone",
            "do_classifier_free_guidance use_cfg cfg_enabled use_guidance do_cfg",
        ),
        "guidance": (
            "guidance=[ClassifierFree(7.5), Interval(0.3, 5.0), Rescale(0.7)], or another of "
            "noise_scheduler_sampling_system.guidance",
            "guidance_rescale rescale_phi rescale_cfg guidance_interval guidance_start guidance_end cond_fn "
            "classifier_fn pag_scale sag_scale apg adaptive_projected_guidance control_guidance_start "
            "control_guidance_end guider",
        ),
        "condition": (
            'condition={"class_labels": labels} for a class-conditional model',
            "class_labels labels label y class_label classes class_cond class_ids",
        ),
        "null_condition": (
            _NULL,
            "negative_prompt_embeds uncond unconditional_conditioning unconditional_condition negative_condition uc "
            "null_cond negative_pooled_prompt_embeds uncond_embeds uncond_embeddings negative_class_labels null_labels "
            "unconditional neg_condition negative_prompt_attention_mask negative_add_time_ids negative_cond",
        ),
        "seed": ("seed=0", "random_seed manual_seed rng_seed noise_seed torch_seed seeds"),
        "generator": ("generator=torch.Generator(), or seed=0", "rng prng prng_key random_state generators key"),
        "noise_ahead": ("noise_ahead=True, which draws noise while the model runs", "prefetch prefetch_noise"),
        "first_index": (
            "first_index=500 for samples 500, 501, ... of the seed",
            "start_index sample_index index_offset seed_offset first_sample sample_offset",
        ),
        "initial_noise": (
            "initial_noise=noise of unit variance and the batch's shape; divide a state of a k-diffusion sampler by "
            "its first sigma",
            "latents noise_latents latent x_T xT x_t init_noise start_noise x z z_T noise_image",
        ),
        "initial_sample": (
            "initial_sample=scheduler.add_noise(image, noise, t) with start=t; or with strength=0.6, where "
            "t = start_at(scheduler, strength=0.6).t",
            "image init_image img init init_latents start_image x0 x_0",
        ),
        "start": (
            "start=t, beside initial_sample=scheduler.add_noise(image, noise, t)",
            "denoising_start t_start start_at_step begin_index start_step start_time",
        ),
        "strength": (
            "strength=0.6, beside initial_sample=scheduler.add_noise(image, noise, t) with "
            "t = start_at(scheduler, strength=0.6).t",
            "denoise denoising_strength",
        ),
        "timesteps": ("timesteps=[999, 750, ...]", "timestep time_steps ts t custom_timesteps timestep_list"),
        "grid": (
            "grid=TimeGrid.from_sigmas(pipeline.scheduler, sigmas)",
            "sigmas sigma noise_levels sigma_schedule t_steps levels denoising_end end_at_step schedule_sigmas",
        ),
        "plan": ("plan=SamplingPlan.load(path), or a PlanSet", "plans sampling_plan table coefficients"),
        "device": ("device='cuda'", "cuda gpu to device_id use_gpu map_location use_cuda"),
        "dtype": ("dtype=torch.float64", "torch_dtype precision half fp16 fp32 bf16 data_type weight_dtype autocast"),
        "noise": (
            "noise='brownian' or 'independent', for stochastic samplers; the noise to start from is initial_noise",
            "noise_sampler noise_type variance_noise step_noise noise_fn",
        ),
        "noise_device": (
            "noise_device='cuda' for numbers that the GPU makes", "rand_device rng_device generator_device noise_on",
        ),
    }),
    *_entries("run", {
        "callback": (
            "callback=function, called with a SamplingStep after every step (step.index, step.t, step.x)",
            "callback_on_step_end callback_steps callback_on_step_end_tensor_inputs callback_fn on_step hook callbacks "
            "step_callback",
        ),
        "progress": (
            "progress=True for a bar",
            "progress_bar show_progress verbose use_tqdm tqdm pbar disable disable_tqdm disable_progress quiet",
        ),
        "round_timesteps": (
            "round_timesteps=True for networks with a table of whole timesteps", "round_t discrete_timesteps",
        ),
        "early_stopping": ("early_stopping=0.01", "early_stop tol tolerance stop_tolerance patience"),
        "max_batch_size": (
            "max_batch_size=8 to run at most 8 samples at a time",
            "micro_batch_size mini_batch_size minibatch_size chunk_size batch_split max_batch vae_batch_size",
        ),
        "return_result": (
            "return_result=True for a SamplingResult; without it a tensor is returned. The steps come from "
            "stream(...)",
            "return_dict return_all return_intermediates return_intermediate return_trajectory return_steps output "
            "log_every_t return_latents full_output output_trajectory return_type",
        ),
        "differentiable": (
            "differentiable=True to record gradients",
            "requires_grad grad enable_grad no_grad with_grad use_grad inference_mode",
        ),
        "profile": ("profile=True", "profiling profiler benchmark timing"),
        "checkpoint": (
            "checkpoint='run.safetensors', from which the same call goes on",
            "checkpoint_path ckpt checkpoint_file resume_from resume save_path",
        ),
        "every": ("every=10, beside checkpoint", "checkpoint_every save_every checkpoint_interval save_interval"),
    }),
    *_entries("resume", {"resume": ("resume=step.state, or the file it was saved to", "resume_from state restore")}),
    *_entries("generate", {
        "prompt": ("prompt='a red cat'", "text texts prompts caption captions"),
        "negative_prompt": ("negative_prompt='blurred'", "neg_prompt negative_text negative"),
        "class_labels": ("class_labels=[1, 2]", "labels label y class_label classes"),
        "height": ("height=512, width=512", "size resolution image_size sample_size"),
        "width": ("height=512, width=512", ""),
        "num_images_per_prompt": (
            "num_images_per_prompt=4", "batch_size bs batch num_samples n_samples num_images n_images shape",
        ),
        "image": ("image=picture, strength=0.8", "init_image img init start_image"),
        "strength": ("image=picture, strength=0.8", "denoise denoising_strength start"),
        "mask_image": ("image=picture, mask_image=mask", "mask inpaint_mask masks known_region mask_latents"),
        "keep_known": ("keep_known=False to leave the known part to the network", "padding_mask_crop"),
        "output_type": ("output_type='pil', 'np', 'pt' or 'latent'", "output_format return_pil"),
        "encode_options": (
            "encode_options={...}, further keywords of the pipeline's encode_prompt",
            "clip_skip prompt_2 prompt_3 negative_prompt_2 negative_prompt_3 max_sequence_length lora_scale",
        ),
    }),
    *_entries("sample", {
        "condition": (
            _CONDITION + ', e.g. condition={"encoder_hidden_states": embeddings}',
            "prompt_embeds encoder_hidden_states pooled_prompt_embeds pooled_projections text_embeds embeds embeddings "
            "context cond conditioning conditions c extra_args extra_kwargs model_kwargs model_args model_extra_kwargs "
            "cross_attention_kwargs joint_attention_kwargs attention_kwargs added_cond_kwargs add_time_ids time_ids "
            "attention_mask encoder_attention_mask prompt_attention_mask prompt_embeds_mask timestep_cond txt_ids "
            "img_ids image_embeds ip_adapter_image ip_adapter_image_embeds image_latents control_image "
            "controlnet_cond original_size target_size crops_coords_top_left kwargs",
        ),
    }),
    *_entries("sample", {
        "guidance": (
            "guidance=KnownRegion(known, mask), of noise_scheduler_sampling_system.guidance",
            "mask_image mask inpaint_mask masks known known_region",
        ),
    }),
    *_entries("pipeline", {
        "method": (
            "DiffusionPipeline(config, method='dpmpp_2m'), in a file method: dpmpp_2m",
            "sampler scheduler sampler_name sampler_type solver solver_name algorithm algorithm_type sampling_method "
            "sample_method scheduler_type scheduler_name integrator",
        ),
        "config": ("config=NoiseSchedulerConfig(...)", "scheduler_config settings configuration schedule_config"),
        "name": ("a name, the first argument of create_pipeline", "pipeline_name id title"),
    }),
    *_entries("config", {
        "num_train_timesteps": (
            "num_train_timesteps=1000",
            "T timesteps num_timesteps n_timesteps train_timesteps num_diffusion_timesteps diffusion_steps "
            "max_timesteps training_steps num_training_steps train_steps noise_steps n_train_timesteps",
        ),
        "beta_schedule": (
            "beta_schedule='cosine'",
            "schedule noise_schedule schedule_name schedule_type beta_schedule_type scheduler scheduler_type "
            "noise_scheduler beta_scheduler path",
        ),
        "beta_start": ("beta_start=0.0001", "linear_start beta_min beta_0 beta_begin beta1"),
        "beta_end": ("beta_end=0.02", "linear_end beta_max beta_T beta_final beta2"),
        "trained_betas": (
            "beta_schedule='custom', trained_betas=betas",
            "betas beta custom_betas alphas_cumprod alphas alpha_bar alphas_bar",
        ),
        "rescale_betas_zero_snr": (
            "rescale_betas_zero_snr=True",
            "zero_terminal_snr zero_snr ztsnr zsnr rescale_betas enforce_zero_terminal_snr",
        ),
        "prediction_type": (
            "prediction_type='epsilon', 'sample', 'v_prediction' or 'flow_prediction'",
            "parameterization parametrization objective pred_type model_mean_type model_type prediction v_prediction "
            "v_pred pred_objective predict predict_epsilon target_type",
        ),
        "clip_sample": (
            "clip_sample=True", "clip clip_denoised clip_x0 clip_x_start clamp clip_samples denoised_fn",
        ),
        "clip_sample_range": ("clip_sample=True, clip_sample_range=1.0", "clip_range clip_value clamp_range"),
        "thresholding": ("thresholding=True", "dynamic_thresholding dynamic_threshold use_dynamic_thresholding"),
        "dynamic_thresholding_ratio": ("dynamic_thresholding_ratio=0.995", "percentile threshold_ratio quantile"),
        "sample_max_value": ("sample_max_value=1.0", "max_value threshold_max"),
        "sample_padding_threshold": ("sample_padding_threshold=0.0", "padding_threshold"),
        "sample_padding_norm": ("sample_padding_norm=1.0", "padding_norm"),
        "timestep_spacing": (
            "timestep_spacing='karras', 'trailing', ...",
            "spacing use_karras_sigmas use_exponential_sigmas use_beta_sigmas use_lu_lambdas karras skip_type "
            "timestep_type timesteps_type time_spacing discretization scheduler_spacing sigma_spacing sigmas_type",
        ),
        "spacing_options": ("spacing_options={...}", "spacing_kwargs final_sigmas_type"),
        "schedule_options": ("schedule_options={...}", "schedule_kwargs flow_shift time_shift"),
        "steps_offset": ("steps_offset=1", "offset timestep_offset"),
        "use_clipped_model_output": ("use_clipped_model_output=True", "clipped_model_output"),
        "variance_type": ("variance_type='fixed_small'", "model_var_type var_type variance sigma_type"),
    }),
)  # fmt: skip

#: Names of sampler options in other libraries, and the options.
OPTION_NAMES: Final[Mapping[str, str]] = {
    "ddim_eta": "eta", "ddimeta": "eta", "temperature": "eta", "churn": "s_churn", "solver_order": "order",
    "s_min": "s_tmin", "s_max": "s_tmax", "use_corrector": "corrector", "noise_level": "eta",
    "sde_window_size": "window_size", "sde_window_start": "window_start",
}  # fmt: skip

#: What to do, and for which names that are not keywords here.
ELSEWHERE: Final[Mapping[str, str]] = {
    "it is a field of diffusers' schedulers: NoiseSchedulerConfig.from_diffusers(scheduler) reads them": (
        "set_alpha_to_one skip_prk_steps interpolation_type lower_order_final euler_at_final use_flow_sigmas "
        "base_shift max_shift base_image_seq_len max_image_seq_len use_dynamic_shifting time_shift_type "
        "lambda_min_clipped disable_corrector solver_p predict_x0 invert_sigmas stochastic_sampling shift_terminal "
        "sigma_data original_inference_steps timestep_scaling mu _class_name _diffusers_version"
    ),
    "pipelines of diffusers come in by DiffusionPipeline.from_diffusers(pipe), for generate(prompt)": (
        "vae text_encoder text_encoder_2 tokenizer tokenizer_2 pipe pipeline safety_checker"
    ),
}
