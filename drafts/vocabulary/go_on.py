import sys,json; sys.path.insert(0,'data/recipe')
import train, corpus, torch, tokenizer as bpe
from pathlib import Path
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
V=6144; SRC='data/tiny-base'
out=Path(sys.argv[sys.argv.index('--out')+1]); out.mkdir(parents=True,exist_ok=True)
alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
merges=[tuple(m) for m in json.load(open('drafts/vocabulary/merges.json'))][:V-4-len(alphabet)]
tokens=[*bpe.SPECIAL,*alphabet,*(a+b for a,b in merges)]; ids={t:i for i,t in enumerate(tokens)}; assert len(ids)==V
if not (out/'tokenizer').exists():
    t=Tokenizer(models.BPE(vocab=ids,merges=merges))
    t.pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),pre_tokenizers.ByteLevel(add_prefix_space=False,use_regex=True)]); t.decoder=decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=t,bos_token=bpe.SPECIAL[0],eos_token=bpe.SPECIAL[2],pad_token=bpe.SPECIAL[3],unk_token=bpe.SPECIAL[0],chat_template=bpe.CHAT_TEMPLATE,model_max_length=1024,clean_up_tokenization_spaces=False,additional_special_tokens=[bpe.SPECIAL[1]]).save_pretrained(out/'tokenizer')
old=PreTrainedTokenizerFast.from_pretrained('data/tiny-base')
for i in range(len(old)): assert old.convert_ids_to_tokens(i)==tokens[i], i
build=train.build
def mine(args, vocabulary):
    m=build(args,vocabulary); s=m.state_dict(); o=LlamaForCausalLM.from_pretrained(SRC,dtype=torch.float32).state_dict()
    e=o['model.embed_tokens.weight']; new=s['model.embed_tokens.weight'].clone(); new[:e.shape[0]]=e; size=e.norm(dim=1).mean()
    for k,(a,b) in enumerate(merges):
        i=4+len(alphabet)+k
        if i>=e.shape[0]:
            v=0.4*new[ids[a]]+0.6*new[ids[b]]; new[i]=v/v.norm()*size
    o['model.embed_tokens.weight']=new; o['lm_head.weight']=new
    m.load_state_dict(o); return m
train.build=mine
train.TURN=0.0
train.share_of_peak=lambda p: 0.1+0.9*p/0.03 if p<0.03 else 0.02+0.98*(1-p)/0.97
train.train(train.parse(sys.argv[1:]))
